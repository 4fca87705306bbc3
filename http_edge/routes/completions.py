"""POST /v1/completions: texts to continue, without a conversation around them."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct

from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, FinishReason
from bus.messages.tokens import DetokenizeRequest
from bus.subjects import COMPLETE, DETOKENIZE
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
from http_edge.logprobs import TextLogprobs, text_logprobs
from http_edge.routing import ask_model, asking, keep_loaded
from http_edge.wire import ModelName, Texts, Ttl, each_text, json_response, read_body

# Accepted and left out, because the answer is the same without it.
IGNORED = {"user": "a label for the provider's own records"}

# Not implemented: refused, unless they say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {"suffix": ("",)}

# OpenAI's default for this endpoint; chat has none.
_DEFAULT_MAX_TOKENS = 16

# More would only stand in the queue, where others wait too.
_MAX_PROMPTS = 64

Prompt = str | tuple[int, ...]


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
    best_of: int | None = None
    echo: bool | None = None
    response_format: ResponseFormat | None = None
    guided_json: Raw = Raw()
    guided_regex: str | None = None
    guided_choice: tuple[str, ...] | None = None
    guided_grammar: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    ttl: Ttl | None = None

    suffix: Any = None

    user: Raw = Raw()


class Choice(Struct, frozen=True, kw_only=True):
    """A continuation. Those of the first prompt come first, `n` of each."""

    text: str
    index: int
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason


async def create(request: web.Request) -> web.StreamResponse:
    """Continue one or more texts, at once or as a stream."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    keep_loaded(request, body.ttl)
    with_usage = wants_usage(body.stream, body.stream_options)
    prompts, messages = chat_requests(body)
    echoes = await _echoes(request, body, prompts)
    head = {
        "id": f"cmpl-{request[REQUEST_ID].removeprefix('req-')}",
        "object": "text_completion",
        "created": int(time.time()),
    }
    with naming_grammar(body):
        if body.stream:
            frames = Frames(head, with_usage=with_usage)
            return await _stream(request, body, messages, frames, echoes)
        model, said = await whole_each(request, COMPLETE, body.model, messages)
    choices = told(said, echoes, with_logprobs=body.logprobs is not None)
    usage = usage_of([each.usage for each in said], body.n)
    return json_response({**head, "model": model, "choices": choices, "usage": usage})


def told(said: Sequence[Generated], echoes: Sequence[str], *, with_logprobs: bool) -> tuple[Choice, ...]:
    """Return what an answer tells of what was `said`, each behind its echo."""
    return tuple(
        Choice(
            text=echo + each.text,
            index=index,
            logprobs=text_logprobs(each.logprobs) if with_logprobs else None,
            finish_reason=each.finish_reason,
        )
        for index, (echo, each) in enumerate(zip(echoes, said, strict=True))
    )


async def _stream(
    request: web.Request, body: Body, messages: list[ChatRequest], frames: Frames, echoes: list[str]
) -> web.StreamResponse:
    with_logprobs = body.logprobs is not None
    if len(messages) == 1:
        async with asking(request, COMPLETE, body.model, "chat", messages[0]) as answer:
            frames.name(answer.model)
            return await relay(request, answer, TextFrames(frames, with_logprobs=with_logprobs, echo=echoes[0]))
    asked = [
        (message, TextFrames(frames, with_logprobs=with_logprobs, index=index, echo=echo))
        for index, (message, echo) in enumerate(zip(messages, echoes, strict=True))
    ]
    return await relay_each(request, COMPLETE, body.model, asked, frames, body.n)


class TextFrames:
    """Turns the pieces of an answer into chunks, after one that echoes the prompt if that is wanted."""

    def __init__(
        self, frames: Frames, *, with_logprobs: bool = False, index: int | None = None, echo: str = ""
    ) -> None:
        self._frames = frames
        self._with_logprobs = with_logprobs
        self._index = index or 0
        # One of several does not know the usage of all.
        self._is_alone = index is None
        self._echo = echo

    def head(self) -> bytes:
        """Return the frame that echoes, the first time that it is asked for."""
        echo, self._echo = self._echo, ""
        return self._choice(ChatChunk(text=echo)) if echo else b""

    def __call__(self, chunk: ChatChunk) -> bytes:
        """Return the frames that tell `chunk`."""
        frames = self.head() + self._choice(chunk)
        is_last = self._is_alone and chunk.finish_reason is not None
        return frames + self._frames.usage(wire_usage(chunk)) if is_last else frames

    def _choice(self, chunk: ChatChunk) -> bytes:
        choice = b'{"text":%b,"index":%d,"logprobs":%b,"finish_reason":%b}' % (
            _encode(chunk.text),
            self._index,
            _encode(text_logprobs(chunk.logprobs)) if self._with_logprobs else b"null",
            _encode(chunk.finish_reason),
        )
        return self._frames.choice(choice)


def _refuse_combined(body: Body) -> None:
    """Raise `RefusedError` on what is supported only in part."""
    if body.best_of not in (None, body.n or 1):
        raise RefusedError("unsupported_parameter", "'best_of' is only supported when it equals 'n'.", param="best_of")
    if body.echo and body.logprobs is not None:
        raise RefusedError(
            "unsupported_parameter",
            "'echo' is not supported with 'logprobs': a prompt has no log probabilities here.",
            param="echo",
        )


def _prompts(body: Body) -> tuple[Prompt, ...]:
    prompts = each_text(body.prompt, "prompt")
    if not 1 <= len(prompts) <= _MAX_PROMPTS:
        message = f"{len(prompts)} prompts; 1 to {_MAX_PROMPTS} may be given."
        raise RefusedError("invalid_request", message, param="prompt")
    if len(prompts) * (body.n or 1) > _MAX_PROMPTS:
        raise RefusedError("invalid_request", f"Prompts times n may be at most {_MAX_PROMPTS}.", param="n")
    return prompts


async def _echoes(request: web.Request, body: Body, prompts: tuple[Prompt, ...]) -> list[str]:
    """Return what stands before each choice."""
    texts = [await _text(request, body.model, each) if body.echo else "" for each in prompts]
    return [text for text in texts for _ in range(body.n or 1)]


async def _text(request: web.Request, model: str, prompt: Prompt) -> str:
    """Return `prompt` as text. Raises as `ask_model` does."""
    if isinstance(prompt, str):
        return prompt
    try:
        said = await ask_model(request, DETOKENIZE, model, "chat", DetokenizeRequest(tokens=prompt))
    except RefusedError as error:
        if not (error.failure.param or "").startswith("tokens"):
            raise
        raise RefusedError(error.code, str(error), param="prompt") from error
    return said.prompt


def chat_requests(body: Body) -> tuple[tuple[Prompt, ...], list[ChatRequest]]:
    """Return the prompts, and what the model is asked: `n` times for each of them. Raises `RefusedError`."""
    _refuse_combined(body)
    prompts = _prompts(body)
    messages = [
        ChatRequest(
            prompt=prompt,
            max_tokens=body.max_tokens or _DEFAULT_MAX_TOKENS,
            stop=stops(body.stop),
            grammar=grammar(body),
            top_logprobs=body.logprobs,
            **sampling(body),
        )
        for prompt in prompts
    ]
    return prompts, [each for message in messages for each in variants(message, body.n)]


_body = msgspec.json.Decoder(Body)
_encode = msgspec.json.Encoder().encode

ROUTES = [web.post("/v1/completions", create)]
