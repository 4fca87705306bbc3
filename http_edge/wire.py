"""JSON over HTTP: from a request to a struct, and from a struct to a response."""

import asyncio
import re
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from bus.decoding import decode, refusal
from bus.errors import Code, RefusedError
from http_edge.context import CONFIG

T = TypeVar("T")

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")

# A model's name becomes part of a subject, which NATS ends the connection for when it is over 4096 bytes;
# escaping makes up to 12 bytes of a character.
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]

# For how many seconds a heavy model stays loaded after the request, as LM Studio has it.
Ttl = Annotated[float, Meta(gt=0)]

# The longest list of a request: parsing and dividing a longer one would hold up everybody else for seconds.
Listed = Meta(max_length=100_000)

# Texts or their token ids, one or many, as OpenAI's `input` and `prompt` have it.
Texts = str | tuple[str | int | tuple[int, ...], ...]


async def read_body(request: web.Request, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the body. Raises `RefusedError` when it is not JSON or not of the decoder's type.

    One that is too large, or does not end in time, raises `web.HTTPException`.
    The content type is insisted on: without it any web page could send requests to a server on this machine,
    because browsers ask before they send JSON elsewhere, but not before they send text.
    """
    if request.content_type != "application/json" and not request.content_type.endswith("+json"):
        raise RefusedError(
            "invalid_request",
            f"Unsupported media type {request.content_type!r}; send Content-Type: application/json.",
        )
    refuse_encoded(request)
    try:
        async with asyncio.timeout(request.app[CONFIG].read_seconds):
            content = await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error
    except web.RequestPayloadError as error:
        raise RefusedError("invalid_request", "The body is not encoded as its headers say.") from error
    return decode(decoder, content)


def refuse_encoded(request: web.Request) -> None:
    """Raise `RefusedError` when the body is compressed."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise RefusedError("invalid_request", f"Unsupported content encoding {encoding!r}; send the body as it is.")


async def read_optional_body(request: web.Request, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the body as `read_body` does, where none at all is `{}`. A web page has to send one, for its reason."""
    if request.can_read_body or "Origin" in request.headers:
        return await read_body(request, decoder)
    return decode(decoder, b"{}")


def read_query(request: web.Request, kind: type[T]) -> T:
    """Return the query string as `kind`, where `a.b=c` is the member `b` of `a`. Raises `RefusedError` if it is not."""
    said: dict[str, Any] = {}
    for name, value in request.query.items():
        field, dot, member = name.partition(".")
        if dot:
            said[field] = {**(said[field] if isinstance(said.get(field), dict) else {}), member: value}
        else:
            said[field] = value
    try:
        return msgspec.convert(said, kind, strict=False)
    except msgspec.ValidationError as error:
        raise refusal(error, kind) from error


def path_id(request: web.Request, name: str, code: Code) -> str:
    """Return the id called `name` in the path. Raises `RefusedError` with `code` when nothing can have such an id."""
    value = request.match_info[name]
    if not _ID.fullmatch(value):
        raise RefusedError(code, f"There is no {value[:80]!r}.", param=name)
    return value


def json_response(message: object, status: int = 200) -> web.Response:
    """Return `message` as a response."""
    return web.Response(status=status, body=msgspec.json.encode(message), content_type="application/json")


def each_text(texts: Texts, param: str) -> tuple[str | tuple[int, ...], ...]:
    """Return the single texts: a string and a list of token ids are one each. Raises `RefusedError` on a mix."""
    if isinstance(texts, str):
        return (texts,)
    ids = tuple(item for item in texts if isinstance(item, int))
    if not ids:
        return tuple(item for item in texts if not isinstance(item, int))
    if len(ids) < len(texts):
        raise RefusedError("invalid_request", "Token ids and texts cannot stand in one list.", param=param)
    return (ids,)
