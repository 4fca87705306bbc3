"""POST /api/embed, and the older /api/embeddings for one text: embeddings as Ollama's clients ask for them."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct

from http_edge.embedding import How, embedded, floats
from http_edge.ollama import model_name
from http_edge.ollama_lines import Stopwatch
from http_edge.ollama_options import KeepAlive, seconds
from http_edge.portions import naming
from http_edge.wire import Listed, ModelName, json_response, read_body
from http_edge.writing import large_json_response

# Accepted and left out, because the answer is the same without it.
IGNORED = {
    "options": "how texts are generated and models loaded; the model's own limit is always the one that counts",
}

NEUTRAL: dict[str, tuple[object, ...]] = {}


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends. Inputs over the model's limit are shortened unless `truncate` is false."""

    model: ModelName
    input: str | Annotated[tuple[str, ...], Listed]
    truncate: bool | None = None
    keep_alive: KeepAlive | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    options: Raw = Raw()


class PromptBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends to the older route."""

    model: ModelName
    prompt: str
    keep_alive: KeepAlive | None = None
    options: Raw = Raw()


async def create(request: web.Request) -> web.StreamResponse:
    """Turn texts into vectors."""
    body = await read_body(request, _body)
    watch = Stopwatch()
    model = model_name(body.model)
    inputs = (body.input,) if isinstance(body.input, str) else body.input
    how = How(truncate=body.truncate is not False, keep_alive=seconds(body.keep_alive), dimensions=body.dimensions)
    with naming(lambda param: "input" if param == "input[0]" and isinstance(body.input, str) else param):
        said = await embedded(request, model, inputs, _numbers, how)
    durations = watch.durations()
    return await large_json_response(
        request,
        {
            "model": model,
            "embeddings": said.data,
            "total_duration": durations["total_duration"],
            "load_duration": durations["load_duration"],
            "prompt_eval_count": said.tokens,
        },
    )


async def create_one(request: web.Request) -> web.StreamResponse:
    """Turn one text into a vector."""
    body = await read_body(request, _prompt_body)
    how = How(truncate=True, keep_alive=seconds(body.keep_alive))
    with naming(lambda param: "prompt" if param == "input[0]" else param):
        said = await embedded(request, model_name(body.model), (body.prompt,), _numbers, how)
    return json_response({"embedding": said.data[0]})


def _numbers(_: int, vector: bytes) -> bytes:
    return _encode(floats(vector))


_body = msgspec.json.Decoder(Body)
_prompt_body = msgspec.json.Decoder(PromptBody)
_encode = msgspec.json.Encoder().encode

ROUTES = [web.post("/api/embed", create), web.post("/api/embeddings", create_one)]
