"""What a client of OpenAI's Responses API asks, and what of it goes to the model."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from bus.errors import RefusedError
from bus.messages.chat import ChatRequest, Grammar, JsonObject, JsonSchema, NamedTool, ReasoningEffort, Tool
from http_edge.generation import refuse_unsupported
from http_edge.grammar import JsonFormat, TextFormat
from http_edge.responses.items import Item
from http_edge.responses.messages import messages
from http_edge.wire import ModelName, Ttl

# Accepted and left out, because the answer is the same without them.
IGNORED = {
    "user": "a label for the provider's own records",
    "safety_identifier": "the same under its newer name",
    "service_tier": "which of the provider's price lists applies",
    "prompt_cache_key": "a hint on where to look for a cached prefix",
    "prompt_cache_options": "the same",
    "prompt_cache_retention": "the same",
}

# Not implemented: refused, unless they say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "truncation": ("disabled",),
    "conversation": (),
    "prompt": (),
    "max_tool_calls": (),
    "context_management": ([],),
    "moderation": (),
    "image": (),
    "access_programs": (),
}
_NEUTRAL_IN_REASONING: dict[str, tuple[object, ...]] = {
    "summary": ("auto",),
    "generate_summary": ("auto",),
    "context": ("auto",),
    "mode": ("standard",),
}

_LOGPROBS = "message.output_text.logprobs"
# All but the log probabilities tell more of tools and images, which are refused; and what was thought is told openly.
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
]

Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class FunctionTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """The function that has to be called."""

    name: str


class SchemaFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that a schema allows. It is enforced whatever `strict` says, and the model is not shown the labels."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    schema: Raw
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of what the model says."""

    format: TextFormat | JsonFormat | SchemaFormat | None = None
    verbosity: Any = None


class ReasoningConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much to think."""

    effort: ReasoningEffort | None = None
    summary: Any = None
    generate_summary: Any = None
    context: Any = None
    mode: Any = None


class StreamOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to stream. Obfuscation pads frames against eavesdroppers who see only their sizes; not done here."""

    include_obfuscation: bool | None = None


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends: what is implemented, then `NEUTRAL`, then `IGNORED`. Null means not said."""

    model: ModelName
    input: str | tuple[Raw, ...]
    instructions: str | None = None
    previous_response_id: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    include: tuple[Includable, ...] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: tuple[FunctionTool, ...] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningConfig | None = None
    text: TextConfig | None = None
    ttl: Ttl | None = None

    truncation: Any = None
    conversation: Any = None
    prompt: Any = None
    max_tool_calls: Any = None
    context_management: Any = None
    moderation: Any = None
    image: Any = None
    access_programs: Any = None

    user: Raw = Raw()
    safety_identifier: Raw = Raw()
    service_tier: Raw = Raw()
    prompt_cache_key: Raw = Raw()
    prompt_cache_options: Raw = Raw()
    prompt_cache_retention: Raw = Raw()


def refuse_contradictions(body: Body) -> None:
    """Raise `RefusedError` if `body` asks for what is not implemented, or for what cannot be had together."""
    refuse_unsupported(body, NEUTRAL)
    if body.reasoning:
        refuse_unsupported(body.reasoning, _NEUTRAL_IN_REASONING, "reasoning.")
    if body.text:
        refuse_unsupported(body.text, {"verbosity": ("medium",)}, "text.")
    if body.stream_options:
        refuse_unsupported(body.stream_options, {"include_obfuscation": (False,)}, "stream_options.")
        if not body.stream:
            raise _refused("stream_options", "'stream_options' is only allowed with 'stream': true.")
    if body.background and body.stream:
        raise _refused("stream", "'stream' together with 'background' is not supported; ask for the response later.")
    if body.background and body.store is False:
        raise _refused("store", "'background' needs 'store': an answer that is not kept could not be had.")
    if body.background and body.ttl is not None:
        raise _refused("ttl", "'ttl' together with 'background' is not supported: the model is loaded for the job.")
    if body.top_logprobs and _LOGPROBS not in (body.include or ()):
        raise _refused("top_logprobs", f"'top_logprobs' is only allowed with '{_LOGPROBS}' in 'include'.")


def chat_request(body: Body, said: Iterable[Item]) -> ChatRequest:
    """Return the request to the model, where `said` is the whole conversation."""
    with_logprobs = _LOGPROBS in (body.include or ())
    return ChatRequest(
        messages=messages(body.instructions, said),
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        grammar=_grammar(body.text),
        top_logprobs=body.top_logprobs or 0 if with_logprobs else None,
        tools=tuple(
            Tool(name=each.name, description=each.description, parameters=each.parameters, strict=each.strict)
            for each in body.tools or ()
        ),
        tool_choice=_tool_choice(body),
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
    )


@contextmanager
def naming_fields() -> Generator[None]:
    """Tell what the model refuses by the field of the body that it comes from."""
    try:
        yield
    except RefusedError as error:
        # A job's input is the request to the model.
        param = (error.failure.param or "").removeprefix("input.")
        outer = next((outer for inner, outer in _FIELDS.items() if param.startswith(inner)), param)
        raise RefusedError(
            error.code, str(error), param=outer or None, retry_after=error.failure.retry_after
        ) from error


_FIELDS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "grammar": "text.format",
    "reasoning_effort": "reasoning.effort",
    "model_id": "model",
}


def _tool_choice(body: Body) -> Literal["none", "auto", "required"] | NamedTool | None:
    if not isinstance(body.tool_choice, NamedFunction):
        return body.tool_choice
    name = body.tool_choice.name
    if name not in {tool.name for tool in body.tools or ()}:
        raise _refused("tool_choice", f"'tool_choice' names the function {name!r}, which is not among 'tools'.")
    return NamedTool(name=name)


def _grammar(text: TextConfig | None) -> Grammar | None:
    match text.format if text else None:
        case JsonFormat():
            return JsonObject()
        case SchemaFormat(schema=schema):
            return JsonSchema(schema=schema)
        case _:
            return None


def _refused(param: str, message: str) -> RefusedError:
    return RefusedError("invalid_request", message, param=param)
