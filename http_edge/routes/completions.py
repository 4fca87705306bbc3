"""POST /v1/completions: texts to continue, without a conversation around them."""

import time
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct

from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, FinishReason
from bus.subjects import COMPLETE
from http_edge.choices import MAX_CHOICES, relay_each, usage_of, variants, whole_each
from http_edge.context import REQUEST_ID
from http_edge.generation import (
    Frames,
    StreamOptions,
    refuse_unsupported,
    relay,
    sampling,
    stops,
    wants_usage,
)
from http_edge.logprobs import TextLogprobs, text_logprobs
from http_edge.routing import asking
from http_edge.wire import ModelName, Texts, each_text, json_response, read_body

# Accepted and left out, because the answer is the same without it.
IGNORED = {"user": "a label for the provider's own records"}

# Not implemented: refused, unless they say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}

# OpenAI's default for this endpoint; chat has none.
_DEFAULT_MAX_TOKENS = 16

# More would only stand in the queue, where others wait too.
_MAX_PROMPTS = 64


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends: what is implemented, then `NEUTRAL`, then `IGNORED`. Null means not said."""

    model: ModelName
    prompt: Texts
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
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
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None

    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    user: Raw = Raw()


class Choice(Struct, frozen=True, kw_only=True):
    """A continuation. Those of the first prompt come first, `n` of each."""

    text: str
    index: int
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason


async def create(request: web.Request) -> web.StreamResponse:
    """Continue one or more texts at once, or one as a stream."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    with_usage = wants_usage(body.stream, body.stream_options)
    messages = _chat_requests(body)
    head = {
        "id": f"cmpl-{request[REQUEST_ID].removeprefix('req-')}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
    }
    if body.stream:
        return await _stream(request, body, messages, Frames(head, with_usage=with_usage))
    said = await whole_each(request, COMPLETE, body.model, messages)
    choices = tuple(
        Choice(
            text=each.text,
            index=index,
            logprobs=None if body.logprobs is None else text_logprobs(each.logprobs),
            finish_reason=each.finish_reason,
        )
        for index, each in enumerate(said)
    )
    return json_response({**head, "choices": choices, "usage": usage_of(said, body.n)})


async def _stream(request: web.Request, body: Body, messages: list[ChatRequest], frames: Frames) -> web.StreamResponse:
    with_logprobs = body.logprobs is not None
    if len(messages) == 1:
        async with asking(request, COMPLETE, body.model, "chat", messages[0]) as answer:
            return await relay(request, answer, TextFrames(frames, with_logprobs=with_logprobs))
    asked = [
        (each, TextFrames(frames, with_logprobs=with_logprobs, index=index)) for index, each in enumerate(messages)
    ]
    return await relay_each(request, COMPLETE, body.model, asked, frames)


class TextFrames:
    """Turns the pieces of an answer into chunks."""

    def __init__(self, frames: Frames, *, with_logprobs: bool = False, index: int | None = None) -> None:
        self._frames = frames
        self._with_logprobs = with_logprobs
        self._index = index or 0
        # One of several does not know the usage of all.
        self._is_alone = index is None

    def __call__(self, chunk: ChatChunk) -> bytes:
        """Return the frames that tell `chunk`."""
        choice = b'{"text":%b,"index":%d,"logprobs":%b,"finish_reason":%b}' % (
            _encode(chunk.text),
            self._index,
            _encode(text_logprobs(chunk.logprobs)) if self._with_logprobs else b"null",
            _encode(chunk.finish_reason),
        )
        frames = self._frames.choice(choice)
        is_last = self._is_alone and chunk.finish_reason is not None
        return frames + self._frames.usage(chunk) if is_last else frames


def _chat_requests(body: Body) -> list[ChatRequest]:
    prompts = each_text(body.prompt, "prompt")
    most = 1 if body.stream else _MAX_PROMPTS
    if not 1 <= len(prompts) <= most:
        how = "a stream takes 1" if body.stream else f"1 to {most} may be given"
        raise RefusedError("invalid_request", f"{len(prompts)} prompts; {how}.", param="prompt")
    if len(prompts) * (body.n or 1) > _MAX_PROMPTS:
        raise RefusedError("invalid_request", f"Prompts times n may be at most {_MAX_PROMPTS}.", param="n")
    messages = [
        ChatRequest(
            prompt=prompt,
            max_tokens=body.max_tokens or _DEFAULT_MAX_TOKENS,
            stop=stops(body.stop),
            top_logprobs=body.logprobs,
            **sampling(body),
        )
        for prompt in prompts
    ]
    return [each for message in messages for each in variants(message, body.n)]


_body = msgspec.json.Decoder(Body)
_encode = msgspec.json.Encoder().encode

ROUTES = [web.post("/v1/completions", create)]
