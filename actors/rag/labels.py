"""The labels of an index, by row.

A label is a chunk's number. None is given twice, and each is higher than those before.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Rows = NDArray[np.intp]


class Rising:
    """Labels by row, in rising order, some of them dead."""

    def __init__(self, labels: Labels | None = None) -> None:
        self._labels = np.zeros(0, np.int64)
        self._is_alive = np.zeros(0, np.bool_)
        self.rows = 0
        self.alive = 0
        self.last = -1
        if labels is not None:
            self.append(labels)

    def append(self, labels: Labels) -> None:
        """Add rows. Raises `ValueError` unless `labels` rise above `last`."""
        if not labels.size:
            return
        if labels[0] <= self.last or np.any(labels[1:] <= labels[:-1]):
            raise ValueError(f"labels have to rise above {self.last}, and these begin with {labels[0]}")
        end = self.rows + labels.size
        self._labels = _grown(self._labels, self.rows, end)
        self._is_alive = _grown(self._is_alive, self.rows, end)
        self._labels[self.rows : end] = labels
        self._is_alive[self.rows : end] = True
        self.rows = end
        self.alive += labels.size
        self.last = int(labels[-1])

    def kill(self, labels: Labels) -> Labels:
        """Make these dead, and return those that were alive."""
        rows = self.find(labels)
        self._is_alive[rows] = False
        self.alive -= rows.size
        return self._labels[rows]

    def find(self, labels: Labels) -> Rows:
        """Return the rows of those `labels` that are alive, rising."""
        wanted = np.unique(labels)
        rows: Rows = np.searchsorted(self._labels[: self.rows], wanted)
        inside = rows < self.rows
        rows, wanted = rows[inside], wanted[inside]
        found: Rows = rows[(self._labels[rows] == wanted) & self._is_alive[rows]]
        return found

    def behind(self, label: int) -> int:
        """Return the first row whose label is higher than `label`."""
        return int(np.searchsorted(self._labels[: self.rows], label, side="right"))

    def living(self, start: int = 0) -> Rows:
        """Return the rows from `start` on that are alive."""
        return np.flatnonzero(self._is_alive[start : self.rows]) + start

    def at(self, rows: Rows) -> Labels:
        """Return the labels in these rows."""
        return self._labels[rows]

    @property
    def dead(self) -> int:
        """How many rows are dead."""
        return self.rows - self.alive


def _grown(array: NDArray[Any], used: int, needed: int) -> NDArray[Any]:
    """Return `array`, or one with the same first `used` rows and room for twice as many as are `needed`."""
    if needed <= len(array):
        return array
    larger = np.empty(2 * needed, array.dtype)
    larger[:used] = array[:used]
    return larger
