"""POST /v1/chat/completions, as OpenAI's clients speak it."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, FinishReason, Message, ReasoningEffort, Role, TextPart
from bus.subjects import CHAT
from http_edge.choices import MAX_CHOICES, relay_each, usage_of, variants, whole_each
from http_edge.context import REQUEST_ID
from http_edge.generation import (
    Frames,
    Generated,
    StreamOptions,
    refuse_unsupported,
    relay,
    sampling,
    stops,
    wants_usage,
    wire_usage,
)
from http_edge.grammar import ResponseFormat, grammar, naming_grammar
from http_edge.logprobs import ChatLogprobs, chat_logprobs, top_logprobs
from http_edge.routing import asking, keep_loaded
from http_edge.tools import (
    BodyCall,
    BodyTool,
    ToolChoice,
    WireCall,
    call_deltas,
    calls,
    naming_tools,
    tool_choice,
    tools,
    wire_calls,
)
from http_edge.wire import ModelName, Ttl, json_response, read_body

# Accepted and left out, because the answer is the same without them.
IGNORED = {
    "user": "a label for the provider's own records",
    "safety_identifier": "the same under its newer name",
    "metadata": "labels of a stored completion",
    "store": "keeping completions at the provider; what ran is in our history anyway",
    "service_tier": "which of the provider's price lists applies",
    "prompt_cache_key": "a hint on where to look for a cached prefix",
    "prompt_cache_options": "the same",
    "prompt_cache_retention": "the same",
}

# Not implemented: refused, unless they say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "moderation": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}

# The same for a message; the clients send back all keys of what they were answered.
_NEUTRAL_IN_MESSAGE: dict[str, tuple[object, ...]] = {
    "function_call": (),
    "audio": (),
    "annotations": ([],),
    "refusal": (),
}


class BodyMessage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message as OpenAI has it, with the `reasoning_content` that our answers and others' have beside it.

    `parsed` is the content once more, as OpenAI's streaming helper leaves it in.
    """

    role: Role
    content: str | tuple[TextPart, ...] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: tuple[BodyCall, ...] | None = None
    reasoning_content: str | None = None
    parsed: Raw = Raw()
    function_call: Any = None
    audio: Any = None
    annotations: Any = None
    refusal: Any = None


class TemplateKwargs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The variables of the chat template that a client may set."""

    enable_thinking: bool | None = None


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends: what is implemented, then `NEUTRAL`, then `IGNORED`. Null means not said."""

    model: ModelName
    messages: Annotated[tuple[BodyMessage, ...], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    stop: str | tuple[str, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    tools: tuple[BodyTool, ...] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: ReasoningEffort | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    response_format: ResponseFormat | None = None
    guided_json: Raw = Raw()
    guided_regex: str | None = None
    guided_choice: tuple[str, ...] | None = None
    guided_grammar: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    ttl: Ttl | None = None

    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    moderation: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    user: Raw = Raw()
    safety_identifier: Raw = Raw()
    metadata: Raw = Raw()
    store: Raw = Raw()
    service_tier: Raw = Raw()
    prompt_cache_key: Raw = Raw()
    prompt_cache_options: Raw = Raw()
    prompt_cache_retention: Raw = Raw()


class AnswerMessage(Struct, frozen=True, kw_only=True):
    """What the model said. `content` is null when it only calls, as OpenAI has it."""

    role: str = "assistant"
    content: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[WireCall, ...] | UnsetType = UNSET
    refusal: None = None


class Choice(Struct, frozen=True, kw_only=True):
    """One answer of `n`."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatFrames:
    """Turns the pieces of an answer into chunks: the role first, then what is said, the reason, and the usage last."""

    def __init__(self, frames: Frames, *, with_logprobs: bool = False, index: int | None = None) -> None:
        self._frames = frames
        self._with_logprobs = with_logprobs
        self._index = index or 0
        # One of several does not know the usage of all.
        self._is_alone = index is None
        self._has_begun = False

    def head(self) -> bytes:
        """Return the frame that tells the role, the first time that it is asked for."""
        head = b"" if self._has_begun else self._delta(b'{"role":"assistant","content":""}')
        self._has_begun = True
        return head

    def __call__(self, chunk: ChatChunk) -> bytes:
        """Return the frames that tell `chunk`."""
        frames = self.head()
        if chunk.reasoning:
            frames += self._delta(b'{"reasoning_content":%b}' % _encode(chunk.reasoning))
        if chunk.text or chunk.logprobs:
            logprobs = _encode(chat_logprobs(chunk.logprobs)) if self._with_logprobs else b"null"
            frames += self._delta(b'{"content":%b}' % _encode(chunk.text), logprobs=logprobs)
        if chunk.tool_calls:
            frames += self._delta(b'{"tool_calls":%b}' % _encode(call_deltas(chunk.tool_calls)))
        if chunk.finish_reason is not None:
            frames += self._delta(b"{}", _encode(chunk.finish_reason))
            frames += self._frames.usage(wire_usage(chunk)) if self._is_alone else b""
        return frames

    def _delta(self, delta: bytes, reason: bytes = b"null", logprobs: bytes = b"null") -> bytes:
        choice = (self._index, delta, logprobs, reason)
        return self._frames.choice(b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}' % choice)


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a conversation, at once or as a stream."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    keep_loaded(request, body.ttl)
    with_usage = wants_usage(body.stream, body.stream_options)
    head = {
        "id": f"chatcmpl-{request[REQUEST_ID].removeprefix('req-')}",
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
    }
    messages = variants(chat_request(body), body.n)
    with naming_grammar(body), naming_tools():
        if body.stream:
            return await _stream(request, body, messages, Frames(head, with_usage=with_usage))
        model, said = await whole_each(request, CHAT, body.model, messages)
    return json_response({**head, "model": model, **told(said, with_logprobs=bool(body.logprobs))})


async def _stream(request: web.Request, body: Body, messages: list[ChatRequest], frames: Frames) -> web.StreamResponse:
    with_logprobs = bool(body.logprobs)
    if len(messages) == 1:
        async with asking(request, CHAT, body.model, "chat", messages[0]) as answer:
            frames.name(answer.model)
            return await relay(request, answer, ChatFrames(frames, with_logprobs=with_logprobs))
    asked = [
        (each, ChatFrames(frames, with_logprobs=with_logprobs, index=index)) for index, each in enumerate(messages)
    ]
    return await relay_each(request, CHAT, body.model, asked, frames, body.n)


def told(said: Sequence[Generated], *, with_logprobs: bool) -> dict[str, Any]:
    """Return what an answer tells of what was `said` to one request: the choices and the usage."""
    choices = [
        Choice(
            index=index,
            message=_answer_message(each),
            logprobs=chat_logprobs(each.logprobs) if with_logprobs else None,
            finish_reason=each.finish_reason,
        )
        for index, each in enumerate(said)
    ]
    return {"choices": choices, "usage": usage_of([each.usage for each in said], len(said))}


def _answer_message(said: Generated) -> AnswerMessage:
    return AnswerMessage(
        content=None if said.tool_calls and not said.text else said.text,
        reasoning_content=said.reasoning or UNSET,
        tool_calls=wire_calls(said.tool_calls) or UNSET,
    )


def chat_request(body: Body) -> ChatRequest:
    """Return what the model is asked. Raises `RefusedError`."""
    return ChatRequest(
        messages=tuple(_message(each, index) for index, each in enumerate(body.messages)),
        max_tokens=_max_tokens(body),
        stop=stops(body.stop),
        grammar=grammar(body),
        top_logprobs=top_logprobs(body.logprobs, body.top_logprobs),
        tools=tools(body.tools or ()),
        tool_choice=tool_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=body.reasoning_effort,
        enable_thinking=body.chat_template_kwargs.enable_thinking if body.chat_template_kwargs else None,
        **sampling(body),
    )


def _message(said: BodyMessage, index: int) -> Message:
    refuse_unsupported(said, _NEUTRAL_IN_MESSAGE, f"messages[{index}].")
    return Message(
        role=said.role,
        content=said.content or "",
        name=said.name,
        reasoning_content=said.reasoning_content or "",
        tool_calls=calls(said.tool_calls or ()),
        tool_call_id=said.tool_call_id,
    )


def _max_tokens(body: Body) -> int | None:
    if body.max_completion_tokens is None:
        return body.max_tokens
    if body.max_tokens not in (None, body.max_completion_tokens):
        raise RefusedError(
            "invalid_request", "'max_tokens' and 'max_completion_tokens' differ; give one.", param="max_tokens"
        )
    return body.max_completion_tokens


_body = msgspec.json.Decoder(Body)
_encode = msgspec.json.Encoder().encode

ROUTES = [web.post("/v1/chat/completions", create)]
