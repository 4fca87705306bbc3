"""POST /v1/rerank, also /v2/rerank and /rerank: what fits a query best, as Cohere's and Jina's clients ask for it."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from bus.errors import LostError, RefusedError
from bus.messages.rerank import RerankRequest
from bus.portions import PORTION_BYTES, portions
from bus.scores import Ranking, Scored, all_scores, ranking
from bus.subjects import RERANK
from http_edge.context import REQUEST_ID
from http_edge.generation import refuse_unsupported
from http_edge.portions import numbered_from
from http_edge.routes.embeddings import Usage
from http_edge.routing import asking, keep_loaded
from http_edge.wire import Listed, ModelName, Ttl, json_response, read_body

# Accepted and left out, because the answer is the same without it.
IGNORED = {"user": "a label for the provider's own records"}

# A document is read in one piece, in the order of arrival, and by its text alone.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "max_chunks_per_doc": (),
    "priority": (0,),
    "rank_fields": (["text"],),
    "relevant_spans": (),
}

Positive = Annotated[int, Meta(ge=1)]


Text = Annotated[str, Meta(min_length=1)]


class Query(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query as Jina's rerankers for texts and images have it."""

    text: Text


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends. A document is a text, or an object with one and anything else.

    `truncate` and `instruction` are ours: the first shortens documents over the model's limit instead of refusing.
    """

    model: ModelName
    query: Text | Query
    documents: Annotated[tuple[str | dict[str, Any], ...], Meta(min_length=1), Listed]
    top_n: Positive | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Positive | None = None
    truncate: bool | None = None
    instruction: Text | None = None
    ttl: Ttl | None = None
    max_chunks_per_doc: Any = None
    priority: Any = None
    rank_fields: Any = None
    relevant_spans: Any = None
    user: Raw = Raw()


class Result(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One document by its number, its score from 0 to 1, and if it was asked for the document as it came."""

    index: int
    relevance_score: float
    document: dict[str, Any] | None = None


class Reranked(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The best documents first. `truncated` are the numbers of those that were shortened.

    The tokens of the query are read, and counted, once for each document.
    """

    id: str
    model: str
    results: list[Result]
    usage: Usage
    truncated: tuple[int, ...] = ()


class Head(Struct, frozen=True, kw_only=True):
    """What an answer tells besides what was found: `name` becomes its id, and at most `top_n` documents are told."""

    name: str
    model: str
    top_n: int | None


async def create(request: web.Request) -> web.StreamResponse:
    """Say how well the documents answer the query."""
    body = await read_body(request, _body)
    asked = rerank_request(body)
    found, model = await _ranked(request, asked, body)
    documents = body.documents if body.return_documents else ()
    head = Head(name=request[REQUEST_ID].removeprefix("req-"), model=model, top_n=body.top_n)
    return json_response(told(head, found, documents))


def rerank_request(body: Body) -> RerankRequest:
    """Return what the model is asked. Raises `RefusedError` on what cannot be honoured."""
    refuse_unsupported(body, NEUTRAL)
    return RerankRequest(
        query=body.query.text if isinstance(body.query, Query) else body.query,
        documents=tuple(_text(number, document) for number, document in enumerate(body.documents)),
        truncate=bool(body.truncate),
        max_document_tokens=body.max_tokens_per_doc,
        instruction=body.instruction,
    )


def told(head: Head, found: Ranking, documents: Sequence[str | dict[str, Any]] = ()) -> Reranked:
    """Return the answer; with `documents` each of those found stands in it."""
    results = [
        Result(
            index=each.index,
            relevance_score=each.relevance_score,
            document=_as_object(documents[each.index]) if documents else None,
        )
        for each in found.results[: head.top_n]
    ]
    usage = Usage(prompt_tokens=found.prompt_tokens, total_tokens=found.prompt_tokens)
    return Reranked(id=f"rerank-{head.name}", model=head.model, results=results, usage=usage, truncated=found.truncated)


def _text(number: int, document: str | dict[str, Any]) -> str:
    if isinstance(document, str):
        return document
    if document.get("image") is not None:
        param = f"documents[{number}].image"
        raise RefusedError("unsupported_parameter", "Rerankers read texts here, not images.", param=param)
    text = document.get("text")
    if not isinstance(text, str):
        param = f"documents[{number}].text"
        raise RefusedError("invalid_request", "A document is a text, or an object with a 'text'.", param=param)
    return text


def _as_object(document: str | dict[str, Any]) -> dict[str, Any]:
    return {"text": document} if isinstance(document, str) else document


async def _ranked(request: web.Request, asked: RerankRequest, body: Body) -> tuple[Ranking, str]:
    """Return what was found, and the id of the model that ran. Raises as `asking` does, and `LostError` on a gap."""
    said = {"query": len(asked.query), "instruction": len(asked.instruction or "")}
    before = sum(said.values())
    parts = list(portions(asked.documents, lambda _: before))
    too_large = max(said, key=said.__getitem__) if before > PORTION_BYTES else None
    scored: list[Scored] = []
    first, model = 0, body.model
    for number, part in enumerate(parts, 1):
        if number == len(parts):
            # Said before, the model could be unloaded between two portions.
            keep_loaded(request, body.ttl)
        message = replace(asked, documents=part)
        with numbered_from(first, "documents", too_large=too_large):
            async with asking(request, RERANK, body.model, "rerank", message) as answer:
                model = answer.model
                scored.append(await all_scores(answer))
        if len(scored[-1].scores) != len(part):
            raise LostError("stream_broken", f"{len(scored[-1].scores)} scores came for {len(part)} documents.")
        first += len(part)
    return ranking(scored), model


_body = msgspec.json.Decoder(Body)

ROUTES = [web.post(path, create) for path in ("/v1/rerank", "/v2/rerank", "/rerank")]
