"""POST /api/rag/search: the passages that fit a query best, without an answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from aiohttp import web
from msgspec import Struct

from bus.errors import RefusedError
from bus.messages.rag import (
    Candidates,
    CollectionName,
    Collections,
    Filter,
    Fusion,
    Mode,
    QueryText,
    SearchDocuments,
    SearchResults,
    SearchSeconds,
    Threshold,
    TopK,
    Vector,
)
from bus.subjects import SEARCH_DOCUMENTS
from http_edge.portions import naming
from http_edge.rag import Source, ask_rag, source_of
from http_edge.wire import ModelName, read_body
from http_edge.writing import large_json_response

# What the rag actor calls otherwise than clients do.
_NAMES = {"rerank_model": "rerank", "model": "model_id"}

# Those of a body that are named alike on the bus.
_ALIKE = ("top_k", "mode", "fusion", "candidates", "similarity_threshold", "filter", "parent", "embedding")


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends. `rerank` is the model that orders the candidates anew."""

    query: QueryText
    collection: CollectionName | None = None
    collections: Collections | None = None
    top_k: TopK | None = None
    mode: Mode | None = None
    fusion: Fusion | None = None
    candidates: Candidates | None = None
    similarity_threshold: Threshold | None = None
    filter: Filter | None = None
    rerank: ModelName | None = None
    parent: bool | None = None
    embedding: Vector | None = None


class StepsMs(Struct, frozen=True, kw_only=True):
    """How long each step took, in milliseconds; `dense` and `bm25` run side by side."""

    embedding: float
    dense: float
    bm25: float
    rerank: float


class Found(Struct, frozen=True, kw_only=True):
    """What was found, best first. `warnings` say what was left out, such as a step that failed."""

    sources: tuple[Source, ...]
    retrieval_latency_ms: int
    steps_ms: StepsMs
    degraded: bool
    warnings: tuple[str, ...]


async def search(request: web.Request) -> web.StreamResponse:
    """Find passages."""
    body = await read_body(request, _body)
    with naming_as_clients(body):
        results = await ask_rag(request, SEARCH_DOCUMENTS(), search_of(body))
    return await large_json_response(request, found(results))


def search_of(body: Body) -> SearchDocuments:
    """Return the search that `body` asks for. Raises `RefusedError`."""
    if body.collection is not None and body.collections is not None:
        raise RefusedError("invalid_request", "Give 'collection' or 'collections', not both.", param="collections")
    said = {name: getattr(body, name) for name in _ALIKE} | {"rerank_model": body.rerank}
    said["collections"] = body.collections or (body.collection and (body.collection,))
    return SearchDocuments(query=body.query, **{name: value for name, value in said.items() if value is not None})


def found(results: SearchResults) -> Found:
    """Return what a client is told of `results`."""
    return Found(
        sources=tuple(map(source_of, results.hits)),
        retrieval_latency_ms=round(results.seconds.total * 1000),
        steps_ms=_steps_ms(results.seconds),
        degraded=results.degraded,
        warnings=results.warnings,
    )


@contextmanager
def naming_as_clients(body: Struct, longest: str = "query") -> Iterator[None]:
    """Have refusals name the field at fault as `body` does; `longest` is what makes a message too large."""
    names = _NAMES if getattr(body, "collections", None) else _NAMES | {"collections": "collection"}

    def name(param: str) -> str:
        param = param.removeprefix("search.")
        return names.get(param, param)

    with naming(name, too_large=longest):
        yield


def _steps_ms(seconds: SearchSeconds) -> StepsMs:
    names = StepsMs.__struct_fields__
    return StepsMs(**{name: round(getattr(seconds, name) * 1000, 1) for name in names})


_body = msgspec.json.Decoder(Body)

ROUTES = [web.post("/api/rag/search", search)]
