"""The sections of a text, by its headings."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from actors.rag.chunk_cutter import Cutter, Place
from actors.rag.contents import Heading


class Sections:
    """The sections of one text; the outermost is all of it."""

    def __init__(self, headings: Sequence[Heading], cutter: Cutter) -> None:
        self._cutter = cutter
        self._offsets = [heading.offset for heading in headings]
        self._titles = [heading.title for heading in headings]
        self._outer, self._ends = _nested(headings, len(cutter.text))

    def path(self, start: int) -> tuple[str, ...]:
        """Return the titles that lead to character `start`, the outermost first."""
        return tuple(self._titles[number] for number in reversed(list(self._around(start))))

    def parent(self, place: Place, most: int) -> Place:
        """Return the largest section around `place` of at most `most` tokens, or so much of the smallest."""
        around = [(self._offsets[number], self._ends[number]) for number in self._around(place[0])]
        around = [section for section in (*around, (0, len(self._cutter.text))) if section[1] >= place[1]]
        fitting = [section for section in around if self._cutter.tokens(*section) <= most]
        return self._cutter.trimmed(*fitting[-1]) if fitting else self._cutter.around(place, around[0], most)

    def _around(self, start: int) -> Iterator[int]:
        """Yield the numbers of the headings above character `start`, the innermost first."""
        number = bisect_right(self._offsets, start) - 1
        while number >= 0:
            yield number
            number = self._outer[number]


def _nested(headings: Sequence[Heading], length: int) -> tuple[list[int], list[int]]:
    """Return of each heading the number of that above it, or -1, and where its section ends."""
    outer: list[int] = []
    ends = [length] * len(headings)
    open_ones: list[int] = []
    for number, heading in enumerate(headings):
        while open_ones and headings[open_ones[-1]].level >= heading.level:
            ends[open_ones.pop()] = heading.offset
        outer.append(open_ones[-1] if open_ones else -1)
        open_ones.append(number)
    return outer, ends
