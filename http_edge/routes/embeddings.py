"""POST /v1/embeddings. OpenAI's clients ask for base64 unless told otherwise, and node's reads nothing else then."""

import struct
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from bus.errors import LostError
from bus.frames import Status
from bus.inbox import Answer
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from bus.subjects import EMBED
from http_edge.generation import refuse_unsupported
from http_edge.routing import asking
from http_edge.wire import ModelName, Texts, each_text, json_response, read_body

# Accepted and left out, because the answer is the same without it.
IGNORED = {"user": "a label for the provider's own records"}

# Shortening is meaningful only for models trained for it.
NEUTRAL: dict[str, tuple[object, ...]] = {"dimensions": ()}

# A message on the bus is at most 1 MB; LangChain alone sends 1000 texts of 1000 characters at once.
_PORTION_BYTES = 512 * 1024


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends. `truncate` is ours: it shortens inputs over the model's limit instead of refusing."""

    model: ModelName
    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    truncate: bool | None = None
    dimensions: Any = None
    user: Raw = Raw()


class Embedding(Struct, frozen=True, kw_only=True):
    """One vector: numbers, or little-endian float32, which JSON carries as base64."""

    object: str = "embedding"
    index: int
    embedding: tuple[float, ...] | bytes


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Struct, frozen=True, kw_only=True):
    """The vectors, in the order of the inputs."""

    object: str = "list"
    data: list[Raw]
    model: str
    usage: Usage


async def create(request: web.Request) -> web.StreamResponse:
    """Turn texts into vectors."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    inputs = each_text(body.input, "input")
    data: list[Raw] = []
    tokens = 0
    for portion in _portions(inputs):
        message = EmbedRequest(input=portion, truncate=bool(body.truncate))
        async with asking(request, EMBED, body.model, "embeddings", message) as answer:
            tokens += await _collect(answer, data, as_base64=body.encoding_format == "base64")
    if len(data) != len(inputs):
        raise LostError("stream_broken", f"{len(data)} vectors came for {len(inputs)} inputs.")
    usage = Usage(prompt_tokens=tokens, total_tokens=tokens)
    return json_response(Embeddings(data=data, model=body.model, usage=usage))


def _portions(inputs: tuple[str | tuple[int, ...], ...]) -> Iterator[tuple[str | tuple[int, ...], ...]]:
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


async def _collect(answer: Answer[EmbedChunk], data: list[Raw], *, as_base64: bool) -> int:
    """Add the vectors to `data`, each as JSON; return the tokens read."""
    # Encoded as they come, so that thousands of vectors do not hold up the others all at once.
    before = len(data)
    tokens = 0
    async for item in answer:
        if isinstance(item, Status):
            continue
        for index, vector in enumerate(item.vectors, before + item.start):
            numbers = vector if as_base64 else struct.unpack(f"<{len(vector) // 4}f", vector)
            data.append(Raw(_encode(Embedding(index=index, embedding=numbers))))
        tokens += item.prompt_tokens or 0
    return tokens


_body = msgspec.json.Decoder(Body)
_encode = msgspec.json.Encoder().encode

ROUTES = [web.post("/v1/embeddings", create)]
