"""POST /api/chat, as Ollama's clients speak it."""

from itertools import count
from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Raw, Struct, UnsetType

from bus.messages.chat import ChatRequest, Message, Role, ToolCall
from bus.subjects import CHAT
from http_edge.generation import refuse_unsupported
from http_edge.logprobs import top_logprobs
from http_edge.ollama import check_context, load, model_name, naming_fields
from http_edge.ollama_lines import Lines, WireCall, answered
from http_edge.ollama_options import KeepAlive, Options, Think, TopLogprobs, grammar, sampling, seconds, thinking
from http_edge.routing import keep_loaded
from http_edge.tools import BodyTool, naming_tools, tools
from http_edge.wire import ModelName, json_response, read_body

# Not implemented: refused, unless they say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "truncate": (False,),
    "shift": (False,),
}

# The same for a message.
_NEUTRAL_IN_MESSAGE: dict[str, tuple[object, ...]] = {"images": ([],)}


class BodyFunction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was called. The order of the calls tells as much as their `index`."""

    name: str
    arguments: dict[str, Any] = {}
    index: int | None = None


class BodyCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call in a message of the assistant. Ollama's python client drops its `id`."""

    function: BodyFunction
    id: str | None = None
    type: Literal["function"] = "function"


class BodyMessage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message as Ollama has it. A tool says its name, and seldom which call it answers."""

    role: Role
    content: str | None = None
    thinking: str | None = None
    tool_calls: tuple[BodyCall, ...] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    images: Any = None


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends: what is implemented, then `NEUTRAL`. Null means not said."""

    model: ModelName
    messages: tuple[BodyMessage, ...] | None = None
    stream: bool | None = None
    tools: tuple[BodyTool, ...] | None = None
    format: Raw = Raw()
    options: Options | None = None
    think: Think | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    keep_alive: KeepAlive | None = None

    truncate: Any = None
    shift: Any = None


class AnswerMessage(Struct, frozen=True, kw_only=True):
    """What the model said."""

    role: str = "assistant"
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: tuple[WireCall, ...] | UnsetType = UNSET


async def create(request: web.Request) -> web.StreamResponse:
    """Continue a conversation, as a stream unless told otherwise. Without messages, load the model or unload it."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    lines = Lines(model_name(body.model), _tell)
    keep_alive = seconds(body.keep_alive)
    if not body.messages:
        return json_response(lines.without_answer(await load(request, lines.model, keep_alive)))
    keep_loaded(request, keep_alive)
    message = _chat_request(body, body.messages)
    await check_context(request, lines.model, body.options)
    with naming_fields(), naming_tools():
        return await answered(request, CHAT, message, lines, stream=body.stream is not False)


def _tell(text: str, reasoning: str, calls: tuple[WireCall, ...]) -> dict[str, Any]:
    return {"message": AnswerMessage(content=text, thinking=reasoning or UNSET, tool_calls=calls or UNSET)}


def _chat_request(body: Body, said: tuple[BodyMessage, ...]) -> ChatRequest:
    return ChatRequest(
        messages=_messages(said),
        tools=tools(body.tools or ()),
        grammar=grammar(body.format),
        top_logprobs=top_logprobs(body.logprobs, body.top_logprobs),
        **thinking(body.think),
        **sampling(body.options or Options()),
    )


def _messages(said: tuple[BodyMessage, ...]) -> tuple[Message, ...]:
    """Return the messages. Calls without an id get one, and a tool answers the first open call of its name."""
    messages: list[Message] = []
    waiting: list[ToolCall] = []
    numbers = count()
    for index, each in enumerate(said):
        refuse_unsupported(each, _NEUTRAL_IN_MESSAGE, f"messages[{index}].")
        calls = tuple(_call(call, next(numbers)) for call in each.tool_calls or ())
        waiting += calls
        messages.append(
            Message(
                role=each.role,
                content=each.content or "",
                name=each.tool_name or None,
                reasoning_content=each.thinking or "",
                tool_calls=calls,
                tool_call_id=_answered_call(each, waiting) if each.role == "tool" else each.tool_call_id,
            )
        )
    return tuple(messages)


def _call(said: BodyCall, number: int) -> ToolCall:
    # Mistral's templates take an id of nine letters and digits, and no other.
    arguments = msgspec.json.encode(said.function.arguments).decode()
    return ToolCall(id=said.id or f"call{number:05d}", name=said.function.name, arguments=arguments)


def _answered_call(said: BodyMessage, waiting: list[ToolCall]) -> str | None:
    """Return the id of the call that `said` answers, and take it out of those that wait; None if there is none."""
    for call in waiting:
        if said.tool_call_id in (None, "", call.id) and said.tool_name in (None, "", call.name):
            waiting.remove(call)
            return call.id
    return said.tool_call_id or None


_body = msgspec.json.Decoder(Body)

ROUTES = [web.post("/api/chat", create)]
