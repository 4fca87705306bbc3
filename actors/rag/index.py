"""What an index of vectors is, and the exact one, which compares with every vector it has.

Vectors are float32 of norm 1, so that the inner product is the cosine.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.rag.blocks import Blocks, Vector, Vectors
from actors.rag.labels import Labels, Rising, Rows

# Rows are looked up one by one where they are less than this part of all; else reading all is faster.
_FEW = 1 / 8


class Scored(NamedTuple):
    """A vector's label, and its cosine with the one that was searched."""

    label: int
    score: float


class VectorIndex(Protocol):
    """Finds the vectors nearest to one. Belongs to one thread."""

    @property
    def last(self) -> int:
        """The highest label that was ever in it; -1 if none was."""

    @property
    def dead(self) -> int:
        """How many were removed and still take room."""

    def __len__(self) -> int:
        """Return how many can be found."""

    def add(self, labels: Labels, vectors: Vectors) -> None:
        """Let them be found. Raises `ValueError` unless labels rise above `last`."""

    def remove(self, labels: Labels) -> None:
        """Let nobody find these any more. Those that are not there are ignored."""

    def search(self, vector: Vector, limit: int, allowed: Labels | None = None) -> list[Scored]:
        """Return the nearest, at most `limit`, the best first; of those `allowed`, if given."""


class ExactIndex:
    """Compares with every vector. Finds for certain what is nearest, in 0.2 ms per thousand."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._labels = Rising()
        self._vectors = Blocks(dimensions)

    @property
    def last(self) -> int:
        """The highest label that was ever in it; -1 if none was."""
        return self._labels.last

    @property
    def dead(self) -> int:
        """How many were removed and still take room."""
        return self._labels.dead

    def __len__(self) -> int:
        """Return how many can be found."""
        return self._labels.alive

    def add(self, labels: Labels, vectors: Vectors) -> None:
        """Let them be found. Raises `ValueError` unless labels rise above `last`."""
        if vectors.shape != (labels.size, self.dimensions):
            raise ValueError(f"vectors of {self.dimensions} dimensions go here, and these are {vectors.shape}")
        self._labels.append(labels)
        self._vectors.append(vectors)

    def remove(self, labels: Labels) -> None:
        """Let nobody find these any more. Those that are not there are ignored."""
        self._labels.kill(labels)

    def search(self, vector: Vector, limit: int, allowed: Labels | None = None, after: int = -1) -> list[Scored]:
        """Return the nearest, at most `limit`, the best first; of those `allowed`, if given.

        Only labels higher than `after` are looked at.
        """
        start = self._labels.behind(after)
        if start == self._labels.rows:
            return []
        rows = self._labels.living(start) if allowed is None else self._labels.find(allowed)
        rows = rows[rows >= start]
        if rows.size < _FEW * (self._labels.rows - start):
            scores = np.vecdot(self._vectors.take(rows), vector)
        else:
            scores = self._vectors.products(vector, start)[rows - start]
        if rows.size > limit:
            best = np.argpartition(-scores, limit - 1)[:limit]
            rows, scores = rows[best], scores[best]
        order = np.lexsort((rows, -scores))
        return list(map(Scored, self._labels.at(rows[order]).tolist(), scores[order].tolist()))

    @property
    def labels(self) -> Labels:
        """Those that can be found, rising."""
        return self._labels.at(self._labels.living())

    def vectors(self, after: int, most: int) -> tuple[Labels, Vectors]:
        """Return the next, at most so many, whose label is higher than `after`."""
        return self._rows(self._labels.living(self._labels.behind(after))[:most])

    def sample(self, count: int, last: int) -> tuple[Labels, Vectors]:
        """Return about so many, from all over, whose label is no higher than `last`."""
        rows = self._labels.living()
        rows = rows[: np.searchsorted(rows, self._labels.behind(last))]
        return self._rows(rows[:: max(1, rows.size // count)])

    def tail(self, after: int) -> int:
        """Return how many labels higher than `after` can be found."""
        return self._labels.living(self._labels.behind(after)).size

    def compact(self) -> None:
        """Give back the room of those that were removed."""
        rows, last = self._labels.living(), self.last
        vectors = Blocks(self.dimensions)
        vectors.append(self._vectors.take(rows))
        self._labels, self._vectors = Rising(self._labels.at(rows)), vectors
        self._labels.last = last

    def _rows(self, rows: Rows) -> tuple[Labels, Vectors]:
        return self._labels.at(rows), self._vectors.take(rows)


def unit(vectors: NDArray[Any]) -> tuple[Vectors, NDArray[np.bool_]]:
    """Return rows with norm 1, and which of them have a direction: the others have a NaN or are zero."""
    rows = np.asarray(vectors, np.float32)
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    has_direction = np.isfinite(squares) & (squares > 0)
    factors = 1 / np.sqrt(np.where(has_direction, squares, 1))
    return rows * factors.astype(np.float32)[:, None], has_direction
