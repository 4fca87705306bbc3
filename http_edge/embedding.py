"""What the routes for embeddings share: any number of inputs, asked for in portions."""

import struct
from collections.abc import Callable, Iterator

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from bus.errors import LostError
from bus.frames import Status
from bus.inbox import Answer
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from bus.subjects import EMBED
from http_edge.routing import asking, keep_loaded

# A message on the bus is at most 1 MB; LangChain alone sends 1000 texts of 1000 characters at once.
_PORTION_BYTES = 512 * 1024

Inputs = tuple[str | tuple[int, ...], ...]

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


async def embedded(request: web.Request, model: str, inputs: Inputs, encode: Encode, how: How) -> Embedded:
    """Return the vectors of `inputs` in their order. Raises as `asking` does, and `LostError` if not all have come."""
    data: list[Raw] = []
    tokens, ran = 0, model
    portions = list(_portions(inputs))
    for number, portion in enumerate(portions, 1):
        if number == len(portions):
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


def _portions(inputs: Inputs) -> Iterator[Inputs]:
    """Yield `inputs` in portions that fit into a message; there is always a first one."""
    portion: list[str | tuple[int, ...]] = []
    size = 0
    for item in inputs:
        more = len(_encode(item)) + 1
        if portion and size + more > _PORTION_BYTES:
            yield tuple(portion)
            portion, size = [], 0
        portion.append(item)
        size += more
    yield tuple(portion)


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


_encode = msgspec.json.Encoder().encode
