"""What rows have given, within a bound of bytes, and who waits for which: what is alike is computed once.

Knows keys only. Rows with equal keys have equal results.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

# A result takes this beside its own bytes: its key, two heads of objects, and a place in the table.
_ENTRY_BYTES = 300


class Asker(NamedTuple):
    """A row of a request, by its number there."""

    request: int
    row: int


class SharedResults:
    """The results of late and the askers of those to come. Keeps at most `keep_bytes`, the last used."""

    def __init__(self, keep_bytes: int) -> None:
        self._room = keep_bytes
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._askers: dict[Hashable, list[Asker]] = {}

    def ask(self, request: int, keys: Sequence[Hashable]) -> tuple[dict[int, bytes], tuple[int, ...]]:
        """Return what is known of the rows of `request`, by index, and the indexes of those that are to be queued.

        That is one row of each other key, also if another request asks for it already: so nobody waits for a neighbour
        who has more in the queue, or leaves. Whoever is first brings it to all.
        """
        known: dict[int, bytes] = {}
        queued: dict[Hashable, int] = {}
        for index, key in enumerate(keys):
            if (result := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                known[index] = result
            else:
                self._askers.setdefault(key, []).append(Asker(request, index))
                queued.setdefault(key, index)
        return known, tuple(queued.values())

    def is_wanted(self, key: Hashable) -> bool:
        """Say whether somebody still waits for it."""
        return key in self._askers

    def arrived(self, key: Hashable, result: bytes) -> list[Asker]:
        """Keep `result`, and return those who have waited for it."""
        self._drop(key)
        self._kept[key] = result
        self._room -= len(result) + _ENTRY_BYTES
        while self._room < 0:
            self._drop(next(iter(self._kept)))
        return self._askers.pop(key, [])

    def leave(self, request: int, keys: Sequence[Hashable]) -> None:
        """Forget that `request`, whose rows have these `keys`, waits for any. Doing so twice is harmless."""
        for key in keys:
            if askers := self._askers.pop(key, None):
                others = [asker for asker in askers if asker.request != request]
                if others:
                    self._askers[key] = others

    def forget(self) -> None:
        """Give back what is kept."""
        for key in tuple(self._kept):
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        if (result := self._kept.pop(key, None)) is not None:
            self._room += len(result) + _ENTRY_BYTES
