"""Brings what the engine thread writes to the rows, which are read on the event loop."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mlx_lm.generate import GenerationBatch, PromptProcessingBatch

from actors.engines.text_logprobs import read_scores
from actors.engines.text_progress import Progress
from actors.engines.text_row import Row
from bus.errors import Code, Failure
from bus.frames import Prefill
from bus.messages.chat import FinishReason


class Token(NamedTuple):
    """The next token of a row, with the reason if it is the last."""

    row: Row
    token: int
    finish_reason: FinishReason | None


class Delivery:
    """Callable on any thread; the rows hear of it on `loop`, in order. A row without log probabilities is given none.

    How much of a prompt was read is told every `interval` seconds at most.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval: float) -> None:
        self._loop = loop
        self._progress = Progress(interval)

    def tokens(self, tokens: list[Token]) -> None:
        """Give each row its token."""
        if tokens:
            self._loop.call_soon_threadsafe(_put, tokens)

    def scores(self, row: Row, response: GenerationBatch.Response) -> None:
        """Give `row` the log probabilities of its next token, if it asked for them. They go before the token."""
        if row.work.top_logprobs is not None:
            scores = read_scores(response.logprobs, response.token, row.work.top_logprobs)
            self._loop.call_soon_threadsafe(row.scores.append, scores)

    def progress(self, rows: Mapping[int, Row], read: Iterable[PromptProcessingBatch.Response]) -> None:
        """Tell the rows, by uid, how much of their prompts was `read`."""
        for each in self._progress.due(read, time.monotonic()):
            row = rows[each.uid]
            # A text that is read once more after a failure is nobody's business.
            if not row.written:
                done = row.cached_tokens + each.progress[0]
                self._loop.call_soon_threadsafe(row.tell, Prefill(done=done, total=len(row.work.prompt)))

    def failure(self, rows: Iterable[Row], code: Code, message: str) -> None:
        """End each row with the failure."""
        failure = Failure(code=code, message=message)
        for row in rows:
            self._loop.call_soon_threadsafe(row.fail, failure)


def _put(tokens: list[Token]) -> None:
    for row, token, finish_reason in tokens:
        row.put(token, finish_reason)
