"""What the routes for embeddings share: any number of inputs, asked for in portions."""

import re
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from bus.errors import LostError, RefusedError
from bus.frames import Status
from bus.inbox import Answer
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from bus.subjects import EMBED
from http_edge.routing import asking, keep_loaded

# A message on the bus is at most 1 MB; LangChain alone sends 1000 texts of 1000 characters at once. What waits in the
# model's process is at most so much of each client, some seconds of work on a CPU.
_PORTION_BYTES = 128 * 1024

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


def embed_request(inputs: Inputs, how: How) -> EmbedRequest:
    """Return what a model is asked."""
    return EmbedRequest(
        input=inputs,
        truncate=how.truncate,
        prompt_name=how.prompt_name,
        prompt=how.prompt,
        dimensions=how.dimensions,
        allow_lossy=how.allow_lossy,
    )


async def embedded(request: web.Request, model: str, inputs: Inputs, encode: Encode, how: How) -> Embedded:
    """Return the vectors of `inputs` in their order. Raises as `asking` does, and `LostError` if not all have come."""
    data: list[Raw] = []
    truncated: list[int] = []
    tokens, ran = 0, model
    portions = list(_portions(inputs, len(how.prompt or "")))
    for number, portion in enumerate(portions, 1):
        if number == len(portions):
            # Said before, the model could be unloaded between two portions.
            keep_loaded(request, how.keep_alive)
        first = len(data)
        message = embed_request(portion, how)
        with _numbered_from(first):
            async with asking(request, EMBED, model, "embeddings", message) as answer:
                ran = answer.model
                async for chunk in _chunks(answer):
                    # Encoded as they come, so that thousands of vectors do not hold up the others all at once.
                    data += [Raw(encode(at, vector)) for at, vector in enumerate(chunk.vectors, first + chunk.start)]
                    truncated += [first + at for at in chunk.truncated]
                    tokens += chunk.prompt_tokens or 0
    if len(data) != len(inputs):
        raise LostError("stream_broken", f"{len(data)} vectors came for {len(inputs)} inputs.")
    return Embedded(data=data, tokens=tokens, model=ran, truncated=tuple(truncated))


def floats(vector: bytes) -> tuple[float, ...]:
    """Return the numbers of `vector`."""
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def _portions(inputs: Inputs, prompt_length: int) -> Iterator[Inputs]:
    """Yield `inputs` in portions that are not much with a prompt before each; there is always a first one."""
    portion: list[str | tuple[int, ...]] = []
    size = 0
    for item in inputs:
        more = len(_encode(item)) + 1 + prompt_length
        if portion and size + more > _PORTION_BYTES:
            yield tuple(portion)
            portion, size = [], 0
        portion.append(item)
        size += more
    yield tuple(portion)


async def _chunks(answer: Answer[EmbedChunk]) -> AsyncIterator[EmbedChunk]:
    async for item in answer:
        if not isinstance(item, Status):
            yield item


@contextmanager
def _numbered_from(first: int) -> Iterator[None]:
    """Give refused inputs the numbers that they have in the client's list, where theirs begin with `first`."""
    try:
        yield
    except RefusedError as error:
        failure = error.failure
        numbered = re.match(r"input\[(\d+)\]", failure.param or "")
        if numbered is None or not first:
            raise
        param = f"input[{first + int(numbered[1])}]"
        message, named = (text.replace(numbered[0], param) for text in (failure.message, failure.param or ""))
        raise RefusedError(failure.code, message, param=named, retry_after=failure.retry_after) from error


_encode = msgspec.json.Encoder().encode
