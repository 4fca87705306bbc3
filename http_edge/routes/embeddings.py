"""POST /v1/embeddings. OpenAI's clients ask for base64 unless told otherwise, and node's reads nothing else then."""

from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from http_edge.contents import Given, read_inputs
from http_edge.context import CONFIG, UPLOADS
from http_edge.embedding import Embedded, Encode, How, embedded, floats, naming
from http_edge.generation import refuse_unsupported
from http_edge.wire import ModelName, Ttl, json_response, read_body

# Accepted and left out, because the answer is the same without it.
IGNORED = {"user": "a label for the provider's own records"}

# Shortening is meaningful only for models trained for it.
NEUTRAL: dict[str, tuple[object, ...]] = {"dimensions": ()}


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends. `truncate` is ours: it shortens inputs over the model's limit instead of refusing."""

    model: ModelName
    input: Given
    encoding_format: Literal["float", "base64"] | None = None
    truncate: bool | None = None
    ttl: Ttl | None = None
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
    """Turn texts and pictures into vectors."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    encode = encoding(body.encoding_format)
    how = How(truncate=bool(body.truncate), keep_alive=body.ttl)
    async with request.app[UPLOADS].held() as held:
        given = await read_inputs(body.input, held, request.app[CONFIG])
        with naming(lambda param: given.names.get(param, param)):
            said = await embedded(request, body.model, given.inputs, encode, how)
    return json_response(told(said))


def encoding(name: Literal["float", "base64"] | None) -> Encode:
    """Return what turns a vector into JSON."""
    return _as_base64 if name == "base64" else _as_numbers


def told(said: Embedded) -> Embeddings:
    """Return the answer that tells of these vectors."""
    usage = Usage(prompt_tokens=said.tokens, total_tokens=said.tokens)
    return Embeddings(data=said.data, model=said.model, usage=usage)


def _as_base64(index: int, vector: bytes) -> bytes:
    return _encode(Embedding(index=index, embedding=vector))


def _as_numbers(index: int, vector: bytes) -> bytes:
    return _encode(Embedding(index=index, embedding=floats(vector)))


_body = msgspec.json.Decoder(Body)
_encode = msgspec.json.Encoder().encode

ROUTES = [web.post("/v1/embeddings", create)]
