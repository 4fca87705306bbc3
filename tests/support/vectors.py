"""Vectors for tests of indexes, and a store that has them in memory."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.rag.change import Change
from actors.rag.index import Vectors
from actors.rag.indexes import Indexes
from actors.rag.labels import Labels

DIMENSIONS = 16
NOTHING = np.zeros(0, np.int64)
NO_VECTORS = np.zeros((0, DIMENSIONS), np.float32)


class Rows:
    """One collection, "c", of random vectors with labels in rising order."""

    def __init__(self, count: int = 0, first: int = 0) -> None:
        self.generation = "first"
        self.labels = NOTHING
        self.rows = NO_VECTORS
        self.next = first
        self._random = np.random.default_rng(7)
        self.add(count)

    def add(self, count: int) -> Change:
        """Store so many new ones."""
        labels, vectors = np.arange(self.next, self.next + count), clustered(self._random, count)
        self.next += count
        self.labels, self.rows = np.append(self.labels, labels), np.vstack([self.rows, vectors])
        return change(labels=labels, vectors=vectors)

    def remove(self, labels: Labels) -> Change:
        """Delete these."""
        stay = ~np.isin(self.labels, labels)
        self.labels, self.rows = self.labels[stay], self.rows[stay]
        return change(gone=labels)

    def nearest(self, vector: NDArray[np.float32], limit: int, allowed: Labels | None = None) -> list[int]:
        """Return their labels, the best first."""
        may = np.ones(self.labels.size, np.bool_) if allowed is None else np.isin(self.labels, allowed)
        order = np.argsort(-(self.rows[may] @ vector), kind="stable")[:limit]
        return [int(label) for label in self.labels[may][order]]

    async def last_label(self) -> int:
        return self.next - 1

    async def dimensions(self) -> Mapping[str, int]:
        return {"c": self.rows.shape[1]}

    async def vectors(self, collection: str, after_label: int, limit: int) -> tuple[Labels, Vectors]:
        start = int(np.searchsorted(self.labels, after_label, side="right")) if collection == "c" else self.labels.size
        return self.labels[start : start + limit], self.rows[start : start + limit]


def clustered(random: np.random.Generator, count: int, dimensions: int = DIMENSIONS) -> Vectors:
    """Return vectors of norm 1 that lie around a few dozen others, as those of texts do."""
    centres = np.random.default_rng(3).normal(size=(40, dimensions))
    rows = centres[random.integers(0, len(centres), count)] + 0.7 * random.normal(size=(count, dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@asynccontextmanager
async def opened(folder: Path, rows: Rows, snapshot_seconds: float = 3600) -> AsyncGenerator[Indexes]:
    """Give indexes of these rows, whose graphs are complete; they are saved at the end."""
    indexes = Indexes(folder, rows, ef=128, snapshot_seconds=snapshot_seconds)
    await indexes.open()
    await indexes.settle()
    try:
        yield indexes
    finally:
        await indexes.close()


def change(**fields: Any) -> Change:
    """Return what the store tells of the collection "c": nothing, but for `fields`."""
    nothing = {"labels": NOTHING, "vectors": NO_VECTORS, "gone": NOTHING}
    return Change(**({"collection": "c", "dimensions": DIMENSIONS} | nothing | fields))
