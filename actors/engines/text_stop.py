"""Finds stop strings in a text that arrives in pieces, whatever the borders of its tokens."""


class StopMatcher:
    """Lets text through up to the first stop string, which itself is never shown.

    Text that may be the beginning of a stop string is held back until it is decided.
    Where several match, the one that is complete first counts, and of those the longest.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.matched: str | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self.matched is not None

    def feed(self, text: str) -> str:
        """Return the part of the text so far that is decided and was not returned before."""
        if not self._stops:
            return text
        if self.is_stopped:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, begin = min(found)
            self.matched = text[begin:end]
            self._held = ""
            return text[:begin]
        border = len(text) - max(overlap(text, stop) for stop in self._stops)
        self._held = text[border:]
        return text[:border]

    def flush(self) -> str:
        """Return what is held back, because the text has ended."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` with which `stop` begins."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
