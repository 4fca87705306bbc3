"""The vectors of one collection: all of them in memory, and a graph over most of them.

A search asks the graph, and compares with those that it does not have yet. So what was added is found at once, and a
graph that is built anew is one that has nothing yet. Belongs to one thread.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import numpy as np
import structlog

from actors.rag.blocks import Vector, Vectors
from actors.rag.hnsw import HnswIndex, State, UnreachableError
from actors.rag.index import ExactIndex, Scored, VectorIndex, unit
from actors.rag.labels import Labels
from actors.rag.snapshots import SnapshotError
from bus.messages.rag_documents import IndexState

log = structlog.get_logger()

# Comparing with so many takes about as long as asking a graph.
FEW = 5_000
# Of a graph, that may be removed vectors before it is built anew.
_MOST_DEAD = 0.3
# A search waits for at most so many vectors that go into a graph: 5 ms where 100,000 are in it.
_SLICE = 8
# Twice as fast as all at once, as it stays in the cache.
_PIECE = 1_000
# Vectors of a graph that was saved which have to find themselves, or others that are the same.
_CHECKED = 16
_ALIKE = 0.999


class Found(NamedTuple):
    """What was nearest, the best first. `degraded`: without most of the graph, which takes longer."""

    scored: list[Scored]
    degraded: bool


class Card(NamedTuple):
    """How an index stands. `vectors` can be found; so many `deleted` still take room in the graph."""

    kind: str
    state: IndexState
    vectors: int
    deleted: int
    snapshot_at: datetime | None


class Copy(NamedTuple):
    """The state of a graph, which has so many vectors, dead ones too; `last` is their highest label."""

    of: HnswIndex
    state: State
    size: int
    last: int


class CollectionIndex:
    """Finds vectors of one collection. `new_graph` makes an empty graph; without it all vectors are compared."""

    def __init__(self, dimensions: int, new_graph: Callable[[], HnswIndex] | None) -> None:
        self.dimensions = dimensions
        self.snapshot_at: datetime | None = None
        self._new_graph = new_graph
        self._all = ExactIndex(dimensions)
        self._graph: HnswIndex | None = None
        self._saved_size = 0

    def add(self, labels: Labels, vectors: Vectors) -> None:
        """Let these, with rising labels, be found. Those no higher than the last are known already, or gone again."""
        new = np.searchsorted(labels, self._all.last, side="right")
        for start in range(int(new), labels.size, _PIECE):
            rows, has_direction = unit(vectors[start : start + _PIECE])
            if not has_direction.all():
                log.warning("index.unusable", vectors=int(np.count_nonzero(~has_direction)))
            self._all.add(labels[start : start + _PIECE][has_direction], rows[has_direction])

    def remove(self, labels: Labels) -> None:
        """Let nobody find these any more. Those that are not there are ignored."""
        self._all.remove(labels)
        if _is_sparse(self._all):
            self._all.compact()
        if self._graph is not None:
            self._graph.remove(labels)
            if _is_sparse(self._graph):
                self.forget_graph()

    def search(self, vector: Vector, limit: int, allowed: Labels | None) -> Found:
        """Return the nearest to `vector`, whose norm is 1, at most `limit`; of those `allowed`, if given."""
        return Found(self._search(vector, limit, allowed), self._is_rebuilding)

    def advance(self, until: float) -> bool:
        """Put into the graph what it lacks, until that time of `time.monotonic`. Return whether it lacks more."""
        if self._graph is None:
            if self._new_graph is None or len(self._all) <= FEW:
                return False
            self._graph = self._new_graph()
        while time.monotonic() < until:
            labels, vectors = self._all.vectors(self._graph.last, _SLICE)
            if not labels.size:
                return False
            self._graph.add(labels, vectors)
        return True

    def forget_graph(self) -> None:
        """Have the graph built anew."""
        self._graph, self._saved_size, self.snapshot_at = None, 0, None

    def restore(self, graph: HnswIndex, at: datetime) -> None:
        """Take over a graph that was saved. Raises `SnapshotError`."""
        here = self.labels
        graph.remove(np.setdiff1d(graph.labels, here, assume_unique=True))
        if _is_sparse(graph):
            raise SnapshotError("too many of its vectors are gone")
        if len(graph) != np.count_nonzero(here <= graph.last):
            raise SnapshotError("vectors are missing")
        if not self._finds_what_it_has(graph):
            raise SnapshotError("it does not find what it has")
        self._graph, self._saved_size, self.snapshot_at = graph, _size(graph), at

    def copy(self, least: float) -> Copy | None:
        """Return a copy of the graph, if more than this part of it is not saved yet."""
        if self._graph is None or _size(self._graph) - self._saved_size <= least * _size(self._graph):
            return None
        return Copy(self._graph, self._graph.state(), _size(self._graph), self._graph.last)

    def saved(self, copy: Copy, at: datetime) -> None:
        """Know that this copy has been saved."""
        if copy.of is self._graph:
            self._saved_size, self.snapshot_at = copy.size, at

    @property
    def card(self) -> Card:
        """How it stands."""
        return Card(
            kind="exact" if self._graph is None else "hnsw",
            state="rebuilding" if self._is_rebuilding else "ready",
            vectors=len(self._all),
            deleted=0 if self._graph is None else self._graph.dead,
            snapshot_at=self.snapshot_at,
        )

    @property
    def labels(self) -> Labels:
        """Those that can be found, rising."""
        return self._all.labels

    def _search(self, vector: Vector, limit: int, allowed: Labels | None) -> list[Scored]:
        if self._graph is None or (allowed is not None and allowed.size <= FEW):
            return self._all.search(vector, limit, allowed)
        try:
            found = self._graph.search(vector, limit, allowed)
        except UnreachableError:
            return self._all.search(vector, limit, allowed)
        found += self._all.search(vector, limit, allowed, after=self._graph.last)
        return sorted(found, key=lambda scored: (-scored.score, scored.label))[:limit]

    @property
    def _is_rebuilding(self) -> bool:
        return self._new_graph is not None and self._all.tail(-1 if self._graph is None else self._graph.last) > FEW

    def _finds_what_it_has(self, graph: HnswIndex) -> bool:
        """Search some of its vectors, of which one may be missed, and many may be alike."""
        labels, vectors = self._all.sample(_CHECKED, graph.last)
        misses = 0
        for label, vector in zip(labels.tolist(), vectors, strict=True):
            found = graph.search(vector, 10)
            misses += label not in {scored.label for scored in found} and found[-1].score < _ALIKE
        return misses <= 1


def _size(index: VectorIndex) -> int:
    return len(index) + index.dead


def _is_sparse(index: VectorIndex) -> bool:
    return index.dead > _MOST_DEAD * _size(index)
