"""What the routes for embeddings share: any number of inputs, asked for in portions."""

import struct
from collections.abc import Callable

from aiohttp import web
from msgspec import Raw, Struct

from bus.errors import LostError
from bus.frames import Status
from bus.inbox import Answer
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from bus.subjects import EMBED
from http_edge.portions import portions
from http_edge.routing import asking, keep_loaded

Inputs = tuple[str | tuple[int, ...], ...]

# Turns the number of an input and its vector, little-endian float32, into JSON.
Encode = Callable[[int, bytes], bytes]


class Embedded(Struct, frozen=True, kw_only=True):
    """The vectors, each as its route has it, the tokens read, and the id of the model that ran."""

    data: list[Raw]
    tokens: int
    model: str


class How(Struct, frozen=True, kw_only=True):
    """What is said of all inputs: whether to shorten those over the limit, and `Bus.stream`'s `keep_alive`."""

    truncate: bool
    keep_alive: float | None


async def embedded(request: web.Request, model: str, inputs: Inputs, encode: Encode, how: How) -> Embedded:
    """Return the vectors of `inputs` in their order. Raises as `asking` does, and `LostError` if not all have come."""
    data: list[Raw] = []
    tokens, ran = 0, model
    parts = list(portions(inputs))
    for number, portion in enumerate(parts, 1):
        if number == len(parts):
            # Said before, the model could be unloaded between two portions.
            keep_loaded(request, how.keep_alive)
        message = EmbedRequest(input=portion, truncate=how.truncate)
        async with asking(request, EMBED, model, "embeddings", message) as answer:
            ran = answer.model
            tokens += await _collect(answer, data, encode)
    if len(data) != len(inputs):
        raise LostError("stream_broken", f"{len(data)} vectors came for {len(inputs)} inputs.")
    return Embedded(data=data, tokens=tokens, model=ran)


def floats(vector: bytes) -> tuple[float, ...]:
    """Return the numbers of `vector`."""
    return struct.unpack(f"<{len(vector) // 4}f", vector)


async def _collect(answer: Answer[EmbedChunk], data: list[Raw], encode: Encode) -> int:
    """Add the vectors to `data`; return the tokens read."""
    # Encoded as they come, so that thousands of vectors do not hold up the others all at once.
    before = len(data)
    tokens = 0
    async for item in answer:
        if isinstance(item, Status):
            continue
        data += [Raw(encode(index, vector)) for index, vector in enumerate(item.vectors, before + item.start)]
        tokens += item.prompt_tokens or 0
    return tokens
