"""What the routes for embeddings share: any number of inputs, asked for in portions."""

import re
import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from bus.errors import LostError, RefusedError
from bus.frames import Status
from bus.inbox import Answer
from bus.messages.embeddings import EmbedChunk, EmbedContent, EmbedInput, EmbedRequest, Frames, TextPart
from bus.subjects import EMBED
from http_edge.routing import asking, keep_loaded

# A message on the bus is at most 1 MB; LangChain alone sends 1000 texts of 1000 characters at once.
_PORTION_BYTES = 512 * 1024
# Decoded, the pictures of one message are in memory together.
_PORTION_PICTURES = 8

Inputs = tuple[EmbedInput, ...]

_INPUT = re.compile(r"input\[(\d+)\](.*)", re.DOTALL)

# Turns the number of an input and its vector, little-endian float32, into JSON.
Encode = Callable[[int, bytes], bytes]


class Embedded(Struct, frozen=True, kw_only=True):
    """The vectors, each as its route has it, the tokens read, the inputs shortened, and the id of the model."""

    data: list[Raw]
    tokens: int
    model: str
    truncated: tuple[int, ...] = ()


class How(Struct, frozen=True, kw_only=True):
    """What is said of all inputs, as in `EmbedRequest`, and `Bus.stream`'s `keep_alive`."""

    truncate: bool
    keep_alive: float | None
    dimensions: int | None = None
    allow_lossy: bool = False
    frames: Frames = Frames()


async def embedded(request: web.Request, model: str, inputs: Inputs, encode: Encode, how: How) -> Embedded:
    """Return the vectors of `inputs` in their order. Raises as `asking` does, and `LostError` if not all have come."""
    data: list[Raw] = []
    truncated: list[int] = []
    tokens, ran = 0, model
    portions = list(_portions(inputs))
    for number, portion in enumerate(portions, 1):
        if number == len(portions):
            # Said before, the model could be unloaded between two portions.
            keep_loaded(request, how.keep_alive)
        message = EmbedRequest(
            input=portion,
            truncate=how.truncate,
            dimensions=how.dimensions,
            allow_lossy=how.allow_lossy,
            frames=how.frames,
        )
        with naming(_numbered_from(len(data))):
            async with asking(request, EMBED, model, "embeddings", message) as answer:
                ran = answer.model
                tokens += await _collect(answer, data, truncated, encode)
    if len(data) != len(inputs):
        raise LostError("stream_broken", f"{len(data)} vectors came for {len(inputs)} inputs.")
    return Embedded(data=data, tokens=tokens, model=ran, truncated=tuple(truncated))


@contextmanager
def naming(name: Callable[[str], str]) -> Generator[None]:
    """Have refusals name the field at fault as `name` turns what the model calls it, such as `input[0]`."""
    try:
        yield
    except RefusedError as error:
        failure = error.failure
        # A portion that is too large for a message is one input.
        said = failure.param or ("input[0]" if failure.code == "too_large" else None)
        param = None if said is None else name(said)
        message = failure.message.replace(said, param) if said and param and "[" in said else failure.message
        raise RefusedError(failure.code, message, param=param, retry_after=failure.retry_after) from error


def floats(vector: bytes) -> tuple[float, ...]:
    """Return the numbers of `vector`."""
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def _portions(inputs: Inputs) -> Iterator[Inputs]:
    """Yield `inputs` in portions that fit into a message; there is always a first one."""
    portion: list[EmbedInput] = []
    size, pictures = 0, 0
    for item in inputs:
        more, more_pictures = len(_encode(item)) + 1, _count_pictures(item)
        if portion and (size + more > _PORTION_BYTES or pictures + more_pictures > _PORTION_PICTURES):
            yield tuple(portion)
            portion, size, pictures = [], 0, 0
        portion.append(item)
        size += more
        pictures += more_pictures
    yield tuple(portion)


def _count_pictures(item: EmbedInput) -> int:
    if not isinstance(item, EmbedContent):
        return 0
    return sum(not isinstance(part, TextPart) for part in item.content)


def _numbered_from(start: int) -> Callable[[str], str]:
    """Return what turns the number of an input in a portion that begins with input `start` into its own."""

    def renumbered(param: str) -> str:
        found = _INPUT.fullmatch(param)
        return f"input[{start + int(found[1])}]{found[2]}" if found else param

    return renumbered


async def _collect(answer: Answer[EmbedChunk], data: list[Raw], truncated: list[int], encode: Encode) -> int:
    """Add the vectors to `data`, and the numbers of what was shortened to `truncated`; return the tokens read."""
    # Encoded as they come, so that thousands of vectors do not hold up the others all at once.
    before = len(data)
    tokens = 0
    async for item in answer:
        if isinstance(item, Status):
            continue
        data += [Raw(encode(index, vector)) for index, vector in enumerate(item.vectors, before + item.start)]
        truncated += [before + number for number in item.truncated]
        tokens += item.prompt_tokens or 0
    return tokens


_encode = msgspec.json.Encoder().encode
