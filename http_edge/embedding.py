"""What the routes for embeddings share: any number of inputs, asked for in portions."""

import struct
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from msgspec import Raw, Struct

from bus.errors import LostError, RefusedError
from bus.frames import Status
from bus.inbox import Answer
from bus.messages.embeddings import EmbedChunk, EmbedContent, EmbedInput, EmbedRequest, Frames, TextPart
from bus.portions import PORTION_BYTES, portions
from bus.subjects import EMBED
from http_edge.portions import numbered_from
from http_edge.routing import asking, keep_loaded

# Of an answer; making it takes more than twice as much memory.
_MOST_BYTES = 256 * 2**20

# Decoded, the pictures of one message are in memory together, so each counts as much text.
_PICTURE_BYTES = 16 * 1024

Inputs = tuple[EmbedInput, ...]

# Turns the number of an input and its vector, little-endian float32, into JSON.
Encode = Callable[[int, bytes], bytes]


class Embedded(Struct, frozen=True, kw_only=True):
    """The vectors, each as its route has it, the tokens read, and the id of the model that ran.

    `truncated` are the numbers of the inputs that were shortened.
    """

    data: list[Raw]
    tokens: int
    model: str
    truncated: tuple[int, ...] = ()


class How(Struct, frozen=True, kw_only=True):
    """What is said of all inputs, as `EmbedRequest` has it, and `Bus.stream`'s `keep_alive`."""

    truncate: bool
    keep_alive: float | None
    prompt_name: str | None = None
    prompt: str | None = None
    dimensions: int | None = None
    allow_lossy: bool = False
    frames: Frames = Frames()


def embed_request(inputs: Inputs, how: How) -> EmbedRequest:
    """Return what a model is asked."""
    return EmbedRequest(
        input=inputs,
        truncate=how.truncate,
        prompt_name=how.prompt_name,
        prompt=how.prompt,
        dimensions=how.dimensions,
        allow_lossy=how.allow_lossy,
        frames=how.frames,
    )


async def embedded(request: web.Request, model: str, inputs: Inputs, encode: Encode, how: How) -> Embedded:
    """Return the vectors of `inputs` in their order.

    Raises as `asking` does, `RefusedError` as soon as it is known that the answer would be too large, and `LostError`
    if not all have come.
    """
    data: list[Raw] = []
    truncated: list[int] = []
    tokens, ran = 0, model
    prompt = len(how.prompt or "")
    parts = list(portions(inputs, lambda item: prompt + _picture_bytes(item)))
    for number, portion in enumerate(parts, 1):
        if number == len(parts):
            # Said before, the model could be unloaded between two portions.
            keep_loaded(request, how.keep_alive)
        first = len(data)
        message = embed_request(portion, how)
        with numbered_from(first, "input", too_large="prompt" if prompt > PORTION_BYTES else None):
            async with asking(request, EMBED, model, "embeddings", message) as answer:
                ran = answer.model
                async for chunk in _chunks(answer):
                    # Encoded as they come, so that thousands of vectors do not hold up the others all at once.
                    data += [Raw(encode(at, vector)) for at, vector in enumerate(chunk.vectors, first + chunk.start)]
                    _refuse_large(len(bytes(data[0])) * len(inputs))
                    truncated += [first + at for at in chunk.truncated]
                    tokens += chunk.prompt_tokens or 0
    if len(data) != len(inputs):
        raise LostError("stream_broken", f"{len(data)} vectors came for {len(inputs)} inputs.")
    return Embedded(data=data, tokens=tokens, model=ran, truncated=tuple(truncated))


def floats(vector: bytes) -> tuple[float, ...]:
    """Return the numbers of `vector`."""
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def _refuse_large(size: int) -> None:
    """Raise `RefusedError` unless an answer of about `size` bytes can be given."""
    if size > _MOST_BYTES:
        message = f"The answer would have about {size} bytes; the limit is {_MOST_BYTES}. Send fewer inputs at once."
        raise RefusedError("too_large", message, param="input")


async def _chunks(answer: Answer[EmbedChunk]) -> AsyncIterator[EmbedChunk]:
    """Yield the chunks with vectors: one without says that others are before it."""
    async for item in answer:
        if not isinstance(item, Status) and item.vectors:
            yield item


def _picture_bytes(item: EmbedInput) -> int:
    parts = item.content if isinstance(item, EmbedContent) else ()
    return _PICTURE_BYTES * sum(not isinstance(part, TextPart) for part in parts)
