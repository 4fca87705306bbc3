"""POST /api/rag/eval: how well a collection answers queries whose relevant documents are known."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from bus.messages.rag import (
    Candidates,
    CollectionName,
    Depth,
    EvaluateSearch,
    Fusion,
    Judged,
    Mode,
    QueryText,
    Relevant,
    Vector,
)
from bus.subjects import EVALUATE_SEARCH
from http_edge.rag import ask_rag
from http_edge.routes.rag_search import naming_as_clients
from http_edge.wire import ModelName, json_response, read_body


class JudgedQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query, and the documents that are relevant to it: their ids, or how relevant each is."""

    query: QueryText
    relevant: Annotated[tuple[str, ...], Meta(min_length=1)] | Relevant
    embedding: Vector | None = None


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends; the rest as in a search."""

    queries: Annotated[tuple[JudgedQuery, ...], Meta(min_length=1, max_length=1000)]
    collection: CollectionName | None = None
    k: Depth | None = None
    mode: Mode | None = None
    fusion: Fusion | None = None
    candidates: Candidates | None = None
    rerank: ModelName | None = None


class Quality(Struct, frozen=True, kw_only=True):
    """Means over the queries; latencies are of one search without the embedding of its query."""

    queries: int
    k: int
    ndcg: float
    recall: float
    mrr: float
    latency_p50_ms: float
    latency_p95_ms: float


async def evaluate(request: web.Request) -> web.StreamResponse:
    """Say how well a collection answers."""
    body = await read_body(request, _body)
    said = {name: getattr(body, name) for name in ("collection", "k", "mode", "fusion", "candidates")}
    said["rerank_model"] = body.rerank
    message = EvaluateSearch(
        queries=tuple(map(_judged, body.queries)), **{name: value for name, value in said.items() if value is not None}
    )
    with naming_as_clients(body, "queries"):
        found = await ask_rag(request, EVALUATE_SEARCH(), message)
    return json_response(
        Quality(
            queries=found.queries,
            k=found.k,
            ndcg=found.ndcg,
            recall=found.recall,
            mrr=found.mrr,
            latency_p50_ms=round(found.seconds_p50 * 1000, 1),
            latency_p95_ms=round(found.seconds_p95 * 1000, 1),
        )
    )


def _judged(query: JudgedQuery) -> Judged:
    relevant = query.relevant if isinstance(query.relevant, dict) else dict.fromkeys(query.relevant, 1.0)
    return Judged(query=query.query, relevant=relevant, embedding=query.embedding)


_body = msgspec.json.Decoder(Body)

ROUTES = [web.post("/api/rag/eval", evaluate)]
