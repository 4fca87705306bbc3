"""Vectors in memory, in blocks, so that adding more copies none of those that are there."""

import numpy as np
from numpy.typing import NDArray

from actors.rag.labels import Rows

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]

_BLOCK = 4096


class Blocks:
    """Rows of float32."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._blocks: list[Vectors] = []
        self._rows = 0

    def append(self, vectors: Vectors) -> None:
        """Add rows."""
        while vectors.size:
            start = self._rows % _BLOCK
            if not start:
                self._blocks.append(np.empty((_BLOCK, self._dimensions), np.float32))
            fitting = vectors[: _BLOCK - start]
            self._blocks[-1][start : start + len(fitting)] = fitting
            self._rows += len(fitting)
            vectors = vectors[len(fitting) :]

    def products(self, vector: Vector, start: int) -> Vector:
        """Return the inner products of `vector` and the rows from `start` on."""
        products = np.empty(self._rows - start, np.float32)
        for first in range(start - start % _BLOCK, self._rows, _BLOCK):
            begin, end = max(start, first), min(first + _BLOCK, self._rows)
            block = self._blocks[first // _BLOCK][begin - first : end - first]
            # A matrix product would wait for all cores at each block, which takes ten times as long when they are busy.
            np.vecdot(block, vector, out=products[begin - start : end - start])
        return products

    def take(self, rows: Rows) -> Vectors:
        """Return a copy of these rows."""
        taken = np.empty((rows.size, self._dimensions), np.float32)
        block, inside = np.divmod(rows, _BLOCK)
        for number in np.unique(block):
            taken[block == number] = self._blocks[number][inside[block == number]]
        return taken
