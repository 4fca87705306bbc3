"""Where a text is cut into chunks.

A chunk ends before a heading, else with a paragraph, a sentence, a line or a word: whichever of these comes first in
this list and leaves it enough of the tokens that it may have.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from actors.rag.contents import Heading

# Behind these a text is cut, the best first. A number with a dot begins an item of a list more often than it ends a
# sentence; lines come later because those of a PDF break sentences.
_SENTENCE = re.compile(r"(?<!\d)[.!?…][\"'”’)\]]*\s+|[。！？]")
_ENDS = (re.compile(r"\n[ \t]*\n+"), _SENTENCE, re.compile(r"\n"), re.compile(r"\s+"))
_SPACE = re.compile(r"\s*")

Place = tuple[int, int]


class Cutter:
    """One text, with the characters at which its tokens begin."""

    def __init__(self, text: str, starts: NDArray[np.int64], headings: Sequence[Heading]) -> None:
        """`starts` ends with the length of the text; `headings` are in order."""
        self.text = text
        self._starts = starts
        self._headings = headings
        self._offsets = [heading.offset for heading in headings]

    def tokens(self, start: int, end: int) -> int:
        """Return about how many tokens this part of the text has."""
        return self._token(end) - self._token(start)

    def places(self, begin: int, end: int, most: int, overlap: int) -> Iterator[Place]:
        """Yield the places of chunks from `begin` to `end`, each of about `most` tokens or less.

        `overlap`, at most half of `most`, are also in the one before.
        """
        start = new = self._behind_space(begin)
        while new < end:
            limit = max(new + 1, self._character(self._token(start) + most))
            cut = end if limit >= end else self._cut(start, new, limit, most)
            yield self.trimmed(start, cut)
            new = self._behind_space(cut)
            start = max(start + 1, self._behind_space(self._shared(new, overlap)))

    def around(self, place: Place, section: Place, most: int) -> Place:
        """Return about `most` tokens of `section` with `place` in their middle, in whole sentences if there are any."""
        spare = max(0, most - self.tokens(*place)) // 2
        first, last = self._token(place[0]) - spare, self._token(place[1]) + spare
        # What one side does not need is for the other.
        low, high = self._token(section[0]), self._token(section[1])
        begin = self._character(max(low, first - max(0, last - high)))
        end = self._character(min(high, last + max(0, low - first)))
        if begin > section[0]:
            begin = self._first_end(begin, place[0]) or begin
        if end < section[1]:
            end = self._last_end(place[1], end) or end
        return self.trimmed(min(begin, place[0]), max(end, place[1]))

    def trimmed(self, start: int, end: int) -> Place:
        """Return the place without the space at its ends."""
        start = min(self._behind_space(start), end)
        return start, start + len(self.text[start:end].rstrip())

    def _cut(self, start: int, new: int, limit: int, most: int) -> int:
        """Return where a chunk ends that begins at `start`, and at `new` with what no other has."""
        # A quarter of its tokens at least are its own.
        own = self._token(new) + most // 4
        if heading := self._heading(self._character(own), limit):
            return heading.offset
        low = max(new, self._character(max(own, self._token(start) + most // 2)))
        return self._last_end(low, limit) or limit

    def _heading(self, low: int, high: int) -> Heading | None:
        """Return the outermost heading between these, and of several the last."""
        between = self._headings[bisect_right(self._offsets, low) : bisect_right(self._offsets, high)]
        return min(reversed(between), key=lambda heading: heading.level, default=None)

    def _shared(self, cut: int, overlap: int) -> int:
        """Return where a chunk begins that shares `overlap` tokens with the one before, which ends at `cut`."""
        # A token may begin with the space before `cut`, and the next one behind it.
        low = min(cut, self._character(self._token(cut) - overlap))
        if headings := self._offsets[bisect_right(self._offsets, low) : bisect_right(self._offsets, cut)]:
            return headings[-1]
        return self._first_end(low, cut) or low

    def _first_end(self, low: int, high: int) -> int | None:
        for pattern in _ENDS[1:]:
            match = pattern.search(self.text, low, high)
            if match and match.end() < high:
                return match.end()
        return None

    def _last_end(self, low: int, high: int) -> int | None:
        for pattern in _ENDS:
            end = max((match.end() for match in pattern.finditer(self.text, low, high)), default=None)
            if end is not None:
                return end
        return None

    def _behind_space(self, start: int) -> int:
        match = _SPACE.match(self.text, start)
        assert match is not None  # noqa: S101 - no space is one, too
        return match.end()

    def _token(self, character: int) -> int:
        """Return the number of the first token that begins at `character` or behind it."""
        return int(np.searchsorted(self._starts, character))

    def _character(self, token: int) -> int:
        return int(self._starts[min(max(token, 0), len(self._starts) - 1)])
