"""Decides which rows tell how much of their prompt was read, and when."""

from collections.abc import Iterable

from mlx_lm.generate import PromptProcessingBatch

# Tokens still to be read; a shorter prompt is read before anyone asks.
_WORTH_TELLING = 2048


class Progress:
    """Lets the news of long prompts through every `interval` seconds at most."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._told_at = 0.0

    def due(self, read: Iterable[PromptProcessingBatch.Response], now: float) -> list[PromptProcessingBatch.Response]:
        """Return those of `read` that are told at the time `now`."""
        long = [each for each in read if each.progress[1] >= _WORTH_TELLING and not each.end_of_prompt]
        if not long or now - self._told_at < self._interval:
            return []
        self._told_at = now
        return long
