"""POST /v1/embeddings. OpenAI's clients ask for base64 unless told otherwise, and node's reads nothing else then."""

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from http_edge.contents import Given, read_inputs
from http_edge.context import CONFIG, UPLOADS
from http_edge.embedding import Embedded, Encode, How, embedded, floats
from http_edge.portions import naming
from http_edge.uploads import holding
from http_edge.wire import ModelName, Ttl, read_body
from http_edge.writing import large_json_response

# Accepted and left out, because the answer is the same without it.
IGNORED = {"user": "a label for the provider's own records"}

NEUTRAL: dict[str, tuple[object, ...]] = {}


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends.

    Ours are `truncate`, which shortens inputs over the model's limit instead of refusing, `allow_lossy`, which cuts
    vectors not made for it, and sentence-transformers' `prompt_name` and `prompt`.
    """

    model: ModelName
    input: Given
    encoding_format: Literal["float", "base64"] | None = None
    truncate: bool | None = None
    ttl: Ttl | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    allow_lossy: bool | None = None
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
    """The vectors, in the order of the inputs, and if any were shortened their numbers."""

    object: str = "list"
    data: list[Raw]
    model: str
    usage: Usage
    truncated: tuple[int, ...] | UnsetType = UNSET


async def create(request: web.Request) -> web.StreamResponse:
    """Turn texts and pictures into vectors."""
    body = await read_body(request, _body)
    encode = encoding(body.encoding_format)
    async with holding(request.app[UPLOADS]) as held:
        given = await read_inputs(body.input, held, request.app[CONFIG])
        with naming(lambda param: given.names.get(param, param)):
            said = await embedded(request, body.model, given.inputs, encode, how_of(body))
    return await large_json_response(request, told(said))


def how_of(body: Body) -> How:
    """Return what `body` says of all inputs."""
    return How(
        truncate=bool(body.truncate),
        keep_alive=body.ttl,
        prompt_name=body.prompt_name,
        prompt=body.prompt,
        dimensions=body.dimensions,
        allow_lossy=bool(body.allow_lossy),
    )


def encoding(name: Literal["float", "base64"] | None) -> Encode:
    """Return what turns a vector into JSON."""
    return _as_base64 if name == "base64" else _as_numbers


def told(said: Embedded) -> Embeddings:
    """Return the answer that tells of these vectors."""
    usage = Usage(prompt_tokens=said.tokens, total_tokens=said.tokens)
    return Embeddings(data=said.data, model=said.model, usage=usage, truncated=said.truncated or UNSET)


def _as_base64(index: int, vector: bytes) -> bytes:
    return _encode(Embedding(index=index, embedding=vector))


def _as_numbers(index: int, vector: bytes) -> bytes:
    return _encode(Embedding(index=index, embedding=floats(vector)))


_body = msgspec.json.Decoder(Body)
_encode = msgspec.json.Encoder().encode

ROUTES = [web.post("/v1/embeddings", create)]
