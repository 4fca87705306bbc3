"""What chat and plain completions share: parameters, the whole answer, and the streamed one."""

from collections.abc import AsyncIterable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from bus.calls import whole_calls
from bus.errors import BusError, LostError, RefusedError
from bus.frames import Status
from bus.inbox import Answer
from bus.messages.chat import ChatChunk, FinishReason, TokenLogprob, ToolCall
from bus.pieces import in_one_piece
from http_edge.errors import format_of
from http_edge.sse import EventStream, event_stream

# Named alike by OpenAI (the last three by mlx-lm) and on the bus; their ranges are checked by the actor.
_SAMPLING = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "top_k",
    "min_p",
    "repetition_penalty",
)


class StreamOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to stream. Obfuscation pads frames against eavesdroppers who see only their sizes; not done here."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class PromptDetails(Struct, frozen=True, kw_only=True):
    """What is told about the prompt's tokens."""

    cached_tokens: int


class WireUsage(Struct, frozen=True, kw_only=True):
    """OpenAI's usage of text models."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Generated(Struct, frozen=True, kw_only=True):
    """A whole answer."""

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason
    stop_sequence: str | None = None
    usage: WireUsage
    logprobs: tuple[TokenLogprob, ...] = ()


def sampling(body: Struct) -> dict[str, Any]:
    """Return the sampling parameters of `body`, for a `ChatRequest`."""
    return {name: getattr(body, name) for name in _SAMPLING}


def stops(stop: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return OpenAI's `stop` as a tuple."""
    return (stop,) if isinstance(stop, str) else stop or ()


def refuse_unsupported(said: Struct, neutral: Mapping[str, tuple[object, ...]], where: str = "") -> None:
    """Raise `RefusedError` if a field that is not implemented says anything but one of its `neutral` values."""
    for name, values in neutral.items():
        value = getattr(said, name)
        # Unlike `in`, this keeps True apart from 1.
        if value is not None and not any(type(value) is type(each) and value == each for each in values):
            allowed = (
                f" It may be {' or '.join(msgspec.json.encode(each).decode() for each in values)}." if values else ""
            )
            message = f"'{where}{name}' is not supported by this server.{allowed}"
            raise RefusedError("unsupported_parameter", message, param=where + name)


def wants_usage(stream: bool | None, options: StreamOptions | None) -> bool:
    """Return whether a stream ends with its usage. Raises `RefusedError` on options that cannot be honoured."""
    if options is None:
        return False
    if not stream:
        raise RefusedError(
            "invalid_request", "'stream_options' is only allowed with 'stream': true.", param="stream_options"
        )
    refuse_unsupported(options, {"include_obfuscation": (False,)}, "stream_options.")
    return bool(options.include_usage)


async def whole(answer: AsyncIterable[ChatChunk | Status]) -> Generated:
    """Wait for all of `answer`. Raises as it does, and `LostError` if it ends without a reason."""
    said = await in_one_piece(answer)
    if said.finish_reason is None:
        raise _unfinished()
    return Generated(
        text=said.text,
        reasoning=said.reasoning,
        tool_calls=whole_calls(said.tool_calls),
        finish_reason=said.finish_reason,
        stop_sequence=said.stop_sequence,
        usage=wire_usage(said),
        logprobs=said.logprobs,
    )


async def relay(
    request: web.Request, answer: Answer[ChatChunk], encode: Callable[[ChatChunk], bytes]
) -> web.StreamResponse:
    """Write `answer` as a stream of events, piece by piece. Raises as `whole` does, at any point of it."""
    async with event_stream(request) as stream:
        last, rest = await relay_pieces(stream, answer, encode)
        if last.finish_reason is None:
            raise _unfinished()
        await stream.write(rest + format_of(request).done)
        return stream.response


async def relay_pieces(
    stream: EventStream, answer: Answer[ChatChunk], encode: Callable[[ChatChunk], bytes], head: bytes = b""
) -> tuple[ChatChunk, bytes]:
    """Write the pieces of `answer`; return the last of them, and what is not written yet.

    `head` goes out when the model has taken the request in.
    Pieces that have come meanwhile leave in one write: sending is the edge's largest cost.
    """
    last, frames = ChatChunk(), b""
    try:
        async for item in answer:
            if head:
                await stream.write(head)
                head = b""
            if isinstance(item, Status):
                await stream.wait_at(item)
                continue
            last = item
            frames += encode(item)
            if frames and not answer.has_more:
                await stream.write(frames)
                frames = b""
    except BusError:
        if frames:
            await stream.write(frames)
        raise
    return last, frames


def wire_usage(chunk: ChatChunk) -> WireUsage:
    """Return the usage told by the last `chunk`."""
    if chunk.usage is None:
        raise _unfinished()
    read, written = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
    return WireUsage(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details=PromptDetails(cached_tokens=chunk.usage.cached_tokens),
    )


class Frames:
    """Makes the frames of one stream; what all of them repeat is encoded once."""

    def __init__(self, head: dict[str, Any], *, with_usage: bool) -> None:
        self._told = head
        self._head = b""
        self._tail = b',"usage":null}\n\n' if with_usage else b"}\n\n"
        self._with_usage = with_usage

    def name(self, model: str) -> None:
        """Say in the head that `model` answers. Comes before all frames."""
        self._head = b"data: " + msgspec.json.encode(self._told | {"model": model}).removesuffix(b"}")

    def choice(self, choice: bytes) -> bytes:
        """Return the frame with this one choice, which is JSON."""
        return b'%b,"choices":[%b]%b' % (self._head, choice, self._tail)

    def usage(self, usage: WireUsage) -> bytes:
        """Return the frame that tells the usage; empty unless it was asked for."""
        if not self._with_usage:
            return b""
        return b'%b,"choices":[],"usage":%b}\n\n' % (self._head, msgspec.json.encode(usage))


def _unfinished() -> LostError:
    return LostError("stream_broken", "The answer ended without saying why.")
