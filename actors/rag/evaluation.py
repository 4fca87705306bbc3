"""Says how well searches answer queries of which it is known what is relevant.

The measures are those of TREC, by document, with binary gain: a document is relevant or not.
nDCG: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002, with 1 / log2(rank + 1).
Recall and reciprocal rank: Voorhees and Harman, "TREC: Experiment and Evaluation in Information Retrieval", 2005.
"""

import math
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from typing import NamedTuple

import numpy as np

from actors.rag.going_on import going_on
from actors.rag.retrieval import Retrieval
from bus.errors import RefusedError
from bus.frames import Status
from bus.messages.rag import EvaluateSearch, Evaluation, Judged, SearchDocuments, SearchResults
from bus.serve import Caller


class Measures(NamedTuple):
    """How well one query was answered, each from 0 to 1."""

    ndcg: float
    recall: float
    reciprocal_rank: float


class Evaluations:
    """Evaluates searches, as `instance`."""

    def __init__(self, retrieval: Retrieval, instance: str) -> None:
        self._retrieval = retrieval
        self._instance = instance

    async def receive(self, request: EvaluateSearch, caller: Caller) -> AsyncGenerator[Evaluation | Status]:
        """Search for each query, one after another, and tell the means. Raises as a search does, and for any step."""
        async with aclosing(going_on(self._evaluate(request, caller), self._instance)) as items:
            async for item in items:
                yield item

    async def _evaluate(self, request: EvaluateSearch, caller: Caller) -> Evaluation:
        relevant = [_relevant(judged, number) for number, judged in enumerate(request.queries)]
        measured, seconds = [], []
        for number, (judged, wanted) in enumerate(zip(request.queries, relevant, strict=True)):
            found = await self._found(_search(request, judged), caller, number)
            measured.append(measures([hit.document_id for hit in found.hits], wanted, request.k))
            seconds.append(found.seconds.total - found.seconds.embedding)
        ndcg, recall, mrr = np.mean(measured, axis=0)
        middle, late = np.percentile(seconds, (50, 95))
        return Evaluation(
            queries=len(request.queries),
            k=request.k,
            ndcg=float(ndcg),
            recall=float(recall),
            mrr=float(mrr),
            seconds_p50=float(middle),
            seconds_p95=float(late),
        )

    async def _found(self, search: SearchDocuments, caller: Caller, number: int) -> SearchResults:
        """Return what is found for query `number`. Raises as a search does; a wrong embedding is that of the query."""
        try:
            return await self._retrieval.documents(search, caller)
        except RefusedError as error:
            if error.failure.param != "embedding":
                raise
            raise RefusedError(error.code, error.failure.message, param=f"queries[{number}].embedding") from error


def measures(found: Sequence[str], relevant: Collection[str], k: int) -> Measures:
    """Return the measures of the first `k` documents of `found`, the best first."""
    ranks = [rank for rank, document in enumerate(found[:k], 1) if document in relevant]
    gained = sum(1 / math.log2(rank + 1) for rank in ranks)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(relevant), k) + 1))
    return Measures(gained / ideal, len(ranks) / len(relevant), 1 / ranks[0] if ranks else 0.0)


def _relevant(judged: Judged, number: int) -> frozenset[str]:
    relevant = frozenset(document for document, gain in judged.relevant.items() if gain > 0)
    if not relevant:
        message = f"Of query {number} no document is relevant, which is one above 0."
        raise RefusedError("invalid_request", message, param=f"queries[{number}].relevant")
    return relevant


def _search(request: EvaluateSearch, judged: Judged) -> SearchDocuments:
    return SearchDocuments(
        query=judged.query,
        collections=(request.collection,),
        top_k=request.k,
        mode=request.mode,
        fusion=request.fusion,
        candidates=request.candidates,
        rerank_model=request.rerank_model,
        embedding=judged.embedding,
    )
