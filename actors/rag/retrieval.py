"""Answers searches: finds candidates, has them reranked, and tells those that are still there.

Leaves what may fit to candidates.py.
"""

from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Sequence

from msgspec import Struct

from actors.rag.candidates import Asked, Candidates, Search
from actors.rag.config import RagConfig
from actors.rag.course import Course
from actors.rag.embedders import Embedders
from actors.rag.filters import where
from actors.rag.hits import fitted, hit
from actors.rag.library import Library
from actors.rag.rerankers import Rerankers
from actors.rag.scope import collection_id
from actors.rag.store_rows import Row
from bus.client import Bus
from bus.errors import BusError, RefusedError
from bus.messages.rag import Hit, SearchDocuments, SearchResults
from bus.serve import Caller

# Rows are read at least so many at a time: some may be gone, or not wanted.
_PAGE = 10


class _Scored(Struct, frozen=True):
    """A chunk, its score by the last step, and that of the reranker."""

    row: Row
    score: float
    rerank: float | None = None


class Retrieval:
    """Searches one library."""

    def __init__(self, bus: Bus, library: Library, embedders: Embedders, config: RagConfig) -> None:
        self._bus = bus
        self._library = library
        self._embedders = embedders
        self._rerankers = Rerankers(bus)
        self._is_private = config.private_collections

    async def receive(self, request: SearchDocuments, caller: Caller) -> AsyncGenerator[SearchResults]:
        """Answer a search."""
        yield await self.search(request, caller)

    async def search(self, request: SearchDocuments, caller: Caller) -> SearchResults:
        """Return what fits best, as much as a message may hold.

        Raises `RefusedError` for what cannot be searched, such as collections that are not there, and `BusError` in
        mode "dense" without the embedding model. Another step that fails is told in `warnings`, and the rest answers.
        """
        results = await self._found(request, caller, Course(), _elsewhere())
        return fitted(results, self._bus.nc.max_payload)

    async def documents(self, request: SearchDocuments, caller: Caller) -> SearchResults:
        """Return the best chunk of each document that fits best, for the evaluation of searches.

        Raises as `search` does, and any error of a step: an evaluation is of all of them.
        """
        return await self._found(request, caller, Course(is_strict=True), _another_document())

    async def _found(
        self, request: SearchDocuments, caller: Caller, course: Course, is_wanted: Callable[[Row], bool]
    ) -> SearchResults:
        asked = self._asked(request, caller)
        reranker = None if request.rerank_model is None else await self._rerankers.find(request.rerank_model)
        found = await Search(self._library, self._embedders, asked, course).run()
        if reranker is None:
            scored = await self._joined(found, request.top_k, is_wanted)
        else:
            every = await self._joined(found, asked.depth, _elsewhere())
            best = await self._reranked(reranker, asked, every, course)
            scored = [one for one in best if is_wanted(one.row)][: request.top_k]
        if request.parent or reranker is not None:
            # Once more, because a reranker takes its time; what was deleted meanwhile is not told.
            scored = await self._again(scored, parent=request.parent)
        hits = tuple(_hit(one, found) for one in scored)
        return SearchResults(
            hits=hits, seconds=course.seconds, degraded=course.is_degraded, warnings=tuple(course.warnings)
        )

    def _asked(self, request: SearchDocuments, caller: Caller) -> Asked:
        """Return the search with its collections. Raises `RefusedError`, which names what is wrong."""
        where(request.filter)
        if request.mode == "bm25" and request.similarity_threshold is not None:
            message = "A 'similarity_threshold' is for cosines, and mode 'bm25' has none."
            raise RefusedError("invalid_request", message, param="similarity_threshold")
        ids = {collection_id(name, caller.key, is_private=self._is_private): name for name in request.collections}
        there = self._library.places(ids)
        for each, name in ids.items():
            if each not in there:
                raise RefusedError("collection_not_found", f"There is no collection '{name}'.", param="collections")
        return Asked(request=request, collections=tuple(there[each] for each in ids), key=caller.key)

    async def _joined(self, found: Candidates, most: int, is_wanted: Callable[[Row], bool]) -> list[_Scored]:
        """Return the first `most` that are there and wanted."""
        joined: list[_Scored] = []
        page = max(most, _PAGE)
        for start in range(0, len(found.ranking), page):
            ranked = found.ranking[start : start + page]
            rows = await self._library.rows([one.label for one in ranked])
            there = [_Scored(rows[one.label], one.score) for one in ranked if one.label in rows]
            joined += [one for one in there if is_wanted(one.row)]
            if len(joined) >= most:
                break
        return joined[:most]

    async def _reranked(self, model: str, asked: Asked, scored: Sequence[_Scored], course: Course) -> Sequence[_Scored]:
        if not scored:
            return scored
        texts = [one.row.text for one in scored]
        try:
            with course.timed("rerank"):
                order = await self._rerankers.order(model, asked.request.query, texts, asked.key)
        except BusError as error:
            course.failed(f"The reranker '{model}' cannot be asked, and the order is that of the search", error)
            return scored
        return [_Scored(scored[one.index].row, one.relevance_score, one.relevance_score) for one in order]

    async def _again(self, scored: Iterable[_Scored], *, parent: bool) -> list[_Scored]:
        scored = list(scored)
        rows = await self._library.rows([one.row.label for one in scored], parent=parent)
        return [_Scored(rows[one.row.label], one.score, one.rerank) for one in scored if one.row.label in rows]


def _elsewhere() -> Callable[[Row], bool]:
    """Return what lets a text through unless another collection had it."""
    seen: dict[str, str] = {}
    return lambda row: seen.setdefault(row.text, row.collection) == row.collection


def _another_document() -> Callable[[Row], bool]:
    """Return what lets the first chunk of each document through."""
    seen: set[Hashable] = set()

    def is_another(row: Row) -> bool:
        document = row.collection, row.document_id
        is_new = document not in seen
        seen.add(document)
        return is_new

    return is_another


def _hit(one: _Scored, found: Candidates) -> Hit:
    label = one.row.label
    return hit(one.row, one.score, cosine=found.cosines.get(label), bm25=found.bm25.get(label), rerank=one.rerank)
