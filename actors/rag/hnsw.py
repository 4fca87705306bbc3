"""An index that finds nearly always what is nearest, without comparing with all: hnswlib behind `VectorIndex`.

hnswlib checks little. It reads past the end of a query that is too short, and breaks when it is searched while
something is added on another thread. So an index belongs to one thread, and gets vectors that were checked.
"""

import importlib
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.rag.blocks import Vector, Vectors
from actors.rag.index import Scored
from actors.rag.labels import Labels, Rising

State = dict[str, NDArray[Any]]

_M = 16
_EF_CONSTRUCTION = 200
_CAPACITY = 16_384
_SPACE = "ip"
# Of the state, besides what hnswlib calls its parts.
_DEAD = "dead"


class UnreachableError(Exception):
    """The graph does not lead to as many vectors as were asked for."""


class HnswIndex:
    """A graph of vectors. `ef` says how many it looks at for one search, at least."""

    def __init__(self, dimensions: int, ef: int) -> None:
        self._labels = Rising()
        self._graph = _library().Index(_SPACE, dimensions)
        self._graph.init_index(_CAPACITY, M=_M, ef_construction=_EF_CONSTRUCTION)
        self._graph.set_ef(ef)

    @classmethod
    def restored(cls, state: State, ef: int) -> "HnswIndex":
        """Return the index whose `state` this is."""
        parts = {name: value if value.ndim else value.item() for name, value in state.items()}
        self = cls.__new__(cls)
        self._labels = Rising(np.sort(parts["label_lookup_external"].astype(np.int64)))
        self._labels.kill(parts.pop(_DEAD))
        self._graph = _library().Index(parts)
        self._graph.set_ef(ef)
        return self

    def state(self) -> State:
        """Return a copy of all that it consists of. For 0.2 s per 100,000 vectors the process stands still."""
        # save_index takes four times as long, and does not let other threads run either.
        (parts,) = self._graph.__getstate__()
        labels = parts["label_lookup_external"].astype(np.int64)
        return {name: np.asarray(value) for name, value in parts.items()} | {_DEAD: np.setdiff1d(labels, self.labels)}

    @property
    def last(self) -> int:
        """The highest label that was ever in it; -1 if none was."""
        return self._labels.last

    @property
    def dead(self) -> int:
        """How many were removed and still take room."""
        return self._labels.dead

    @property
    def labels(self) -> Labels:
        """Those that can be found, rising."""
        return self._labels.at(self._labels.living())

    def __len__(self) -> int:
        """Return how many can be found."""
        return self._labels.alive

    def add(self, labels: Labels, vectors: Vectors) -> None:
        """Let them be found. Raises `ValueError` unless labels rise above `last`."""
        needed = self._labels.rows + labels.size
        self._labels.append(labels)
        if needed > self._graph.get_max_elements():
            # Not while somebody searches, which would crash: this is the thread that searches.
            self._graph.resize_index(2 * needed)
        self._graph.add_items(vectors, labels, num_threads=1)

    def remove(self, labels: Labels) -> None:
        """Let nobody find these any more. Those that are not there are ignored."""
        for label in self._labels.kill(labels).tolist():
            self._graph.mark_deleted(label)

    def search(self, vector: Vector, limit: int, allowed: Labels | None = None) -> list[Scored]:
        """Return the nearest, at most `limit`, the best first; of those `allowed`, if given.

        Raises `UnreachableError`, as when few of them are allowed.
        """
        most = min(limit, len(self))
        if not most:
            return []
        may = None if allowed is None else set(allowed.tolist()).__contains__
        try:
            labels, distances = self._graph.knn_query(vector, most, num_threads=1, filter=may)
        except RuntimeError as error:
            raise UnreachableError(str(error)) from error
        return list(map(Scored, labels[0].tolist(), (1 - distances[0]).tolist()))


def is_installed() -> bool:
    """Tell whether there is hnswlib."""
    return importlib.util.find_spec("hnswlib") is not None


def _library() -> Any:
    return importlib.import_module("hnswlib")
