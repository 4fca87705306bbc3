"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic's clients speak them."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, assert_never

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct

from bus.errors import RefusedError
from bus.messages.chat import ChatRequest, JsonSchema, ReasoningEffort
from bus.messages.tokens import TokenizeRequest
from bus.subjects import CHAT, TOKENIZE
from http_edge.anthropic_answer import answer_usage, content, stop_reason
from http_edge.anthropic_messages import TextBlock, Turn, conversation
from http_edge.anthropic_stream import AnswerFrames
from http_edge.anthropic_tools import BodyChoice, BodyTool, NoChoice, parallel_tool_calls, tool_choice, tools
from http_edge.context import REQUEST_ID
from http_edge.generation import refuse_unsupported, relay, whole
from http_edge.routing import ask_model, asking
from http_edge.wire import ModelName, json_response, read_body

# Accepted and left out, because the answer is the same without them.
IGNORED = {
    "cache_control": "what begins like an earlier prompt is found without being told where to look",
    "metadata": "a label for the provider's own records",
    "service_tier": "which of the provider's capacities is used",
    "inference_geo": "where the provider computes",
    "speed": "which of the provider's price lists applies",
    "diagnostics": "a report on the provider's cache",
}

# Not implemented: refused, unless they say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "container": (),
    "context_management": ({"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
    "mcp_servers": ([],),
}

# What the model calls a field that it refuses, and what it is called here.
_NAMES = {
    "enable_thinking": "thinking",
    "grammar": "output_config.format.schema",
    "reasoning_effort": "output_config.effort",
}
# The same of a tool: `tools[0].parameters`.
_SCHEMA = re.compile(r"(?<=\]\.)parameters$")

# Anthropic's own default, high, is not said at all, so that a model without efforts can be asked.
_EFFORTS: dict[str, ReasoningEffort | None] = {
    "low": "low",
    "medium": "medium",
    "high": None,
    "xhigh": "xhigh",
    "max": "xhigh",
}

Display = Literal["summarized", "omitted"]


class ThinkingOn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="enabled"):
    """The model thinks first. `budget_tokens` is no limit here; `max_tokens` is one for thoughts and text together."""

    budget_tokens: int | None = None
    display: Display | None = None


class ThinkingAdaptive(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="adaptive"):
    """The model's chat template decides."""

    display: Display | None = None


class ThinkingOff(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="disabled"):
    """The model does not think first."""


Thinking = ThinkingOn | ThinkingAdaptive | ThinkingOff


class OutputFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """What the answer is kept to."""

    schema: Raw


class OutputConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be counted, in the order of `Body`. Null means not said."""

    model: ModelName
    messages: Annotated[tuple[Turn, ...], Meta(min_length=1)]
    system: str | tuple[TextBlock, ...] | None = None
    thinking: Thinking | None = None
    tools: tuple[BodyTool, ...] | None = None
    tool_choice: BodyChoice | None = None
    output_config: OutputConfig | None = None

    context_management: Any = None
    mcp_servers: Any = None

    cache_control: Raw = Raw()
    speed: Raw = Raw()


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends: what is implemented, then `NEUTRAL`, then `IGNORED`. Null means not said."""

    model: ModelName
    messages: Annotated[tuple[Turn, ...], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=1)]
    system: str | tuple[TextBlock, ...] | None = None
    stream: bool | None = None
    stop_sequences: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(max_length=4)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: float | None = None
    top_k: int | None = None
    thinking: Thinking | None = None
    tools: tuple[BodyTool, ...] | None = None
    tool_choice: BodyChoice | None = None
    output_config: OutputConfig | None = None

    container: Any = None
    context_management: Any = None
    mcp_servers: Any = None

    cache_control: Raw = Raw()
    metadata: Raw = Raw()
    service_tier: Raw = Raw()
    inference_geo: Raw = Raw()
    speed: Raw = Raw()
    diagnostics: Raw = Raw()


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a conversation, at once or as a stream."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    head = {
        "id": f"msg_{request[REQUEST_ID].removeprefix('req-')}",
        "type": "message",
        "role": "assistant",
    }
    shows_thoughts = getattr(body.thinking, "display", None) != "omitted"
    with _naming_fields():
        async with asking(request, CHAT, body.model, "chat", _chat_request(body)) as answer:
            head["model"] = answer.model
            if body.stream:
                return await relay(request, answer, AnswerFrames(head, shows_thoughts=shows_thoughts))
            said = await whole(answer)
    told = {
        "content": content(said, shows_thoughts=shows_thoughts),
        "stop_reason": stop_reason(said.finish_reason, said.stop_sequence),
        "stop_sequence": said.stop_sequence,
        "usage": answer_usage(said.usage),
    }
    return json_response(head | told)


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """Answer with the number of tokens that `create` would read."""
    body = await read_body(request, _count_body)
    refuse_unsupported(body, {name: NEUTRAL[name] for name in ("context_management", "mcp_servers")})
    with _naming_fields():
        said = await ask_model(request, TOKENIZE, body.model, "chat", TokenizeRequest(**_prompt(body)))
    return json_response({"input_tokens": len(said.tokens)})


def _chat_request(body: Body) -> ChatRequest:
    schema = body.output_config and body.output_config.format and body.output_config.format.schema
    return ChatRequest(
        max_tokens=body.max_tokens,
        stop=body.stop_sequences or (),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        tool_choice=tool_choice(body.tool_choice),
        parallel_tool_calls=parallel_tool_calls(body.tool_choice),
        grammar=JsonSchema(schema=schema) if schema else None,
        **_prompt(body),
    )


def _prompt(body: Body | CountBody) -> dict[str, Any]:
    """Return what the prompt is made of, for a `ChatRequest` or a `TokenizeRequest`."""
    offered = tools(body.tools or ())
    return {
        "messages": conversation(body.system, body.messages),
        # Of tools that may not be called the model does not hear.
        "tools": () if isinstance(body.tool_choice, NoChoice) else offered,
        "enable_thinking": _enable_thinking(body.thinking),
        "reasoning_effort": _EFFORTS[body.output_config.effort or "high"] if body.output_config else None,
    }


def _enable_thinking(said: Thinking | None) -> bool | None:
    match said:
        case ThinkingOn():
            return True
        case ThinkingOff():
            return False
        case ThinkingAdaptive() | None:
            return None
        case _:
            assert_never(said)


@contextmanager
def _naming_fields() -> Generator[None]:
    """Tell of what the model refuses by the name of the field that it comes from."""
    try:
        yield
    except RefusedError as error:
        inner = error.failure.param or ""
        param = _NAMES.get(inner.partition(".")[0]) or _SCHEMA.sub("input_schema", inner)
        if param == inner:
            raise
        raise RefusedError(error.code, str(error), param=param) from error


_body = msgspec.json.Decoder(Body)
_count_body = msgspec.json.Decoder(CountBody)

ROUTES = [web.post("/v1/messages", create), web.post("/v1/messages/count_tokens", count_tokens)]
