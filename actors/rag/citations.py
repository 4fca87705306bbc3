"""Finds the marks of an answer that name its sources, such as [1], [1, 2] and [1][2], while it is being written.

The text itself is never changed.
"""

import re
from collections.abc import Mapping

from bus.messages.rag import Citation, Hit

# At most 177 characters, so that no end of a text has to be kept for long.
_MARK = re.compile(r"\[\s{0,3}([0-9]{1,4}(?:\s{0,3}[,;]\s{0,3}[0-9]{1,4}){0,15})\s{0,3}\]")
# What may become a mark when more comes.
_BEGUN = re.compile(r"\[[0-9\s,;]{0,176}\Z")


# An answer that repeats itself for ever would not fit into a message with all of them.
_MOST = 1000


class Citations:
    """Reads one answer piece by piece. `sources` are the hits that the model was given, by their numbers."""

    def __init__(self, sources: Mapping[int, Hit]) -> None:
        self._sources = sources
        self._kept = ""
        self._offset = 0
        self.found: list[Citation] = []
        # Numbers in marks that name no source, in their order.
        self.unknown: list[int] = []

    def feed(self, text: str) -> list[Citation]:
        """Return the citations that end in `text`, the next piece of the answer."""
        self._kept += text
        before = len(self.found)
        done = 0
        for mark in _MARK.finditer(self._kept):
            self._take(mark)
            done = mark.end()
        begun = _BEGUN.search(self._kept, done)
        done = begun.start() if begun else len(self._kept)
        self._kept, self._offset = self._kept[done:], self._offset + done
        return self.found[before:]

    def _take(self, mark: re.Match[str]) -> None:
        for number in dict.fromkeys(map(int, re.findall("[0-9]+", mark[1]))):
            hit = self._sources.get(number)
            if hit is None:
                self.unknown.append(number)
                continue
            if len(self.found) == _MOST:
                return
            citation = Citation(
                number=number,
                chunk_id=hit.chunk_id,
                document_id=hit.document_id,
                collection=hit.collection,
                start=hit.start,
                end=hit.end,
                answer_start=self._offset + mark.start(),
                answer_end=self._offset + mark.end(),
                pages=hit.pages,
            )
            self.found.append(citation)
