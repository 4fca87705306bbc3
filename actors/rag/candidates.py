"""Finds what may fit a query: by vectors and by words, side by side, in several collections, put into one ranking.

Of collections whose vectors come from the same model the cosines compare, and make one ranking. Those of different
models do not, so that each model has a ranking of its own. BM25 of all collections makes one.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from actors.rag.blocks import Vector
from actors.rag.course import Course, together
from actors.rag.embedders import Embedders
from actors.rag.fusion import convex, rrf
from actors.rag.index import Scored
from actors.rag.library import Library
from actors.rag.store_query import Place
from bus.errors import BusError, RefusedError, error_of
from bus.messages.rag import SearchDocuments

_FUSIONS = {"rrf": rrf, "convex": convex}


class Asked(Struct, frozen=True, kw_only=True):
    """A search in collections that are there. `key` is the fingerprint of the API key."""

    request: SearchDocuments
    collections: tuple[Place, ...]
    key: str | None

    @property
    def depth(self) -> int:
        """How long each ranking may be."""
        return max(self.request.candidates, self.request.top_k)


class Candidates(Struct, frozen=True, kw_only=True):
    """One ranking, the best first, and the scores behind it by label."""

    ranking: list[Scored]
    cosines: Mapping[int, float]
    bm25: Mapping[int, float]


class Search:
    """One search of a library."""

    def __init__(self, library: Library, embedders: Embedders, asked: Asked, course: Course) -> None:
        self._library = library
        self._embedders = embedders
        self._asked = asked
        self._course = course
        # By model: those that could be asked.
        self._vectors: dict[str, Vector] = {}

    async def run(self) -> Candidates:
        """Return what may fit. Raises `BusError` when nothing can be searched."""
        request = self._asked.request
        dense, words = await together(self._dense(), self._words())
        cosines = _by_label(dense.values())
        if self._vectors:
            cosines |= await self._cosines(words, cosines)
        rankings = self._rankings(dense, words)
        if request.similarity_threshold is not None:
            rankings = [self._near(ranking, cosines, request.similarity_threshold) for ranking in rankings]
        ranking = rankings[0] if len(rankings) == 1 else _FUSIONS[request.fusion](rankings)
        return Candidates(ranking=ranking, cosines=cosines, bm25=_by_label(words.values()))

    async def _dense(self) -> dict[str, list[Scored]]:
        """Return what is near, by collection."""
        if self._asked.request.mode == "bm25":
            return {}
        await self._embed()
        depth, allowed = self._asked.depth, self._asked.request.filter
        places = [place for place in self._asked.collections if place.model in self._vectors]
        with self._course.timed("dense"):
            found = await together(
                *(self._library.dense(one.collection, self._vectors[one.model], depth, allowed) for one in places)
            )
        for place, one in zip(places, found, strict=True):
            if one.degraded:
                self._course.degraded(f"The index of '{place.name}' is being built; until then searches take longer.")
        return {place.collection: one.scored for place, one in zip(places, found, strict=True)}

    async def _words(self) -> dict[str, list[Scored]]:
        """Return what has words of the query, by collection."""
        request = self._asked.request
        if request.mode == "dense":
            return {}
        with self._course.timed("bm25"):
            found = await together(
                *(
                    self._library.bm25(place.collection, request.query, self._asked.depth, request.filter)
                    for place in self._asked.collections
                )
            )
        return {place.collection: one for place, one in zip(self._asked.collections, found, strict=True)}

    async def _embed(self) -> None:
        """Turn the query into a vector by each model, as far as they can be asked."""
        dimensions = {place.model: place.dimensions for place in self._asked.collections}
        if self._asked.request.embedding is not None:
            self._vectors = _given(self._asked.request.embedding, dimensions)
            return
        with self._course.timed("embedding"):
            found = await together(*(self._vector(model, length) for model, length in dimensions.items()))
        self._vectors = {model: one for model, one in zip(dimensions, found, strict=True) if one is not None}

    async def _vector(self, model: str, dimensions: int) -> Vector | None:
        try:
            embedder = await self._embedders.find(model)
            vector = await self._embedders.query(embedder, self._asked.request.query, self._asked.key)
            if vector.size != dimensions:
                message = f"its vectors have {vector.size} numbers, those of the collection {dimensions}"
                raise RefusedError("conflict", message)
        except BusError as error:
            what = f"The embedding model '{model}' cannot be asked"
            if self._asked.request.mode == "dense":
                raise _without_param(error, what) from error
            unapplied = " without the similarity_threshold" * (self._asked.request.similarity_threshold is not None)
            self._course.failed(f"{what}, and only words were searched{unapplied}", error)
            return None
        return vector

    async def _cosines(self, words: Mapping[str, list[Scored]], known: Mapping[int, float]) -> dict[int, float]:
        """Return the cosines of what was found by its words alone."""
        models = {place.collection: place.model for place in self._asked.collections}
        unknown = {
            collection: np.array(sorted(one.label for one in found if one.label not in known), np.int64)
            for collection, found in words.items()
            if models[collection] in self._vectors
        }
        found = await together(
            *(
                self._library.cosines(collection, self._vectors[models[collection]], labels)
                for collection, labels in unknown.items()
                if labels.size
            )
        )
        return _by_label(found)

    def _rankings(self, dense: Mapping[str, list[Scored]], words: Mapping[str, list[Scored]]) -> list[list[Scored]]:
        models = {place.collection: place.model for place in self._asked.collections}
        rankings = [
            self._best(found for collection, found in dense.items() if models[collection] == model)
            for model in self._vectors
        ]
        return rankings if self._asked.request.mode == "dense" else [*rankings, self._best(words.values())]

    def _best(self, found: Iterable[list[Scored]]) -> list[Scored]:
        every = sorted((one for each in found for one in each), key=lambda one: one.score, reverse=True)
        return every[: self._asked.depth]

    def _near(self, ranking: list[Scored], cosines: Mapping[int, float], least: float) -> list[Scored]:
        """Leave out what is not near enough; of what has no cosine nobody knows."""
        return [one for one in ranking if cosines.get(one.label, least) >= least]


def _by_label(found: Iterable[list[Scored]]) -> dict[int, float]:
    return {one.label: one.score for each in found for one in each}


def _given(embedding: tuple[float, ...], dimensions: Mapping[str, int]) -> dict[str, Vector]:
    """Return the vector that was given, for the one model of the collections."""
    if len(dimensions) > 1:
        message = f"An 'embedding' is of one model, and the collections have several: {', '.join(dimensions)}."
        raise RefusedError("invalid_request", message, param="embedding")
    ((model, length),) = dimensions.items()
    if len(embedding) != length:
        message = f"The 'embedding' has {len(embedding)} numbers; those of {model} have {length}."
        raise RefusedError("invalid_request", message, param="embedding")
    return {model: np.array(embedding, np.float32)}


def _without_param(error: BusError, what: str) -> BusError:
    """Return `error` about `what`; the field that it names is not one of a search."""
    return error_of(replace(error.failure, param=None, message=f"{what}: {error}"))
