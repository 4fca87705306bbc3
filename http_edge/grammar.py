"""What an answer is kept to: OpenAI's `response_format`, and the names that vLLM has for more."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta, Raw, Struct

from bus.errors import RefusedError
from bus.messages.chat import Choice, Grammar, JsonObject, JsonSchema, Lark, Regex


class TextFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """No format."""


class JsonFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class NamedSchema(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schema with labels. It is enforced whatever `strict` says, and the model is not shown the labels."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    schema: Raw
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that a schema allows."""

    json_schema: NamedSchema


ResponseFormat = TextFormat | JsonFormat | SchemaFormat


class Guided(Protocol):
    """What a body may say."""

    @property
    def response_format(self) -> ResponseFormat | None: ...  # noqa: D102 - the field of the body
    @property
    def guided_json(self) -> Raw: ...  # noqa: D102 - the field of the body
    @property
    def guided_regex(self) -> str | None: ...  # noqa: D102 - the field of the body
    @property
    def guided_choice(self) -> tuple[str, ...] | None: ...  # noqa: D102 - the field of the body
    @property
    def guided_grammar(self) -> str | None: ...  # noqa: D102 - the field of the body


def grammar(body: Guided) -> Grammar | None:
    """Return what the answer is kept to. Raises `RefusedError` if `body` says more than one such thing."""
    said = _said(body)
    if len(said) > 1:
        first, second, *_ = (param.partition(".")[0] for param in said)
        raise RefusedError("invalid_request", f"'{first}' and '{second}' cannot be combined.", param=second)
    return next(iter(said.values()), None)


@contextmanager
def naming_grammar(body: Guided) -> Generator[None]:
    """Tell that the model refuses a grammar by the field of `body` that it comes from."""
    try:
        yield
    except RefusedError as error:
        if not (error.failure.param or "").startswith("grammar"):
            raise
        param = next(iter(_said(body)), None)
        raise RefusedError(error.code, str(error), param=param) from error


def _said(body: Guided) -> dict[str, Grammar]:
    """Return the grammars of `body` by the field that is at fault if one cannot be honoured."""
    said: dict[str, Grammar] = {}
    match body.response_format:
        case JsonFormat():
            said["response_format"] = JsonObject()
        case SchemaFormat(json_schema=named):
            said["response_format.json_schema.schema"] = JsonSchema(schema=named.schema)
        case _:
            pass
    if bytes(body.guided_json) not in {b"", b"null"}:
        said["guided_json"] = JsonSchema(schema=_schema(body.guided_json))
    if body.guided_regex is not None:
        said["guided_regex"] = Regex(pattern=body.guided_regex)
    if body.guided_choice is not None:
        said["guided_choice"] = Choice(options=body.guided_choice)
    if body.guided_grammar is not None:
        said["guided_grammar"] = Lark(source=body.guided_grammar)
    return said


def _schema(said: Raw) -> Raw:
    """Return a schema that was given as such, or as a string of JSON."""
    if not bytes(said).startswith(b'"'):
        return said
    try:
        return msgspec.json.decode(msgspec.json.decode(said, type=str), type=Raw)
    except msgspec.DecodeError as error:
        raise RefusedError("invalid_request", f"The schema is not JSON: {error}", param="guided_json") from error
