"""One text being generated, between the engine thread that writes it and the event loop that reads it."""

import asyncio
from collections import deque

from actors.engines.text_grammar import Constraint
from actors.engines.text_logprobs import Scores
from actors.engines.text_prompt import TextWork
from bus.errors import Failure, LostError, RefusedError
from bus.frames import Prefill
from bus.messages.chat import FinishReason


class Row:
    """One text. `take` is for the event loop, where it is also told everything; the attributes below are not.

    They belong to the engine thread: its number in the generator `uid`, the tokens `written` so far, and how it is
    written. `fork` tokens of what is to be read are kept when they were read; 0 is nothing.
    `cached_tokens` of the prompt were known; it is right once a token has come. `prefill` is how much was read.
    """

    def __init__(self, work: TextWork) -> None:
        self.work = work
        self.uid = -1
        self.written: list[int] = []
        self.fork = 0
        self.constraint: Constraint | None = None
        self.is_draftable = work.is_plain
        # How often it was in a batch that failed without anyone's being at fault.
        self.failures = 0
        self.cached_tokens = 0
        self.prefill = Prefill(done=0, total=len(work.prompt))
        # One for each token that `take` returns, if they were asked for.
        self.scores: deque[Scores] = deque()
        self._tokens: list[int] = []
        self._finish_reason: FinishReason | None = None
        self._failure: Failure | None = None
        self._arrival: asyncio.Future[None] | None = None

    @property
    def tokens(self) -> list[int]:
        """Prompt and text so far."""
        return self.work.prompt + self.written

    async def take(self) -> tuple[list[int], FinishReason | None]:
        """Wait for tokens and return all that have come, with the reason if they are the last.

        Without tokens there is news in `prefill`. Raises what the row failed with.
        """
        if not self._tokens and self._failure is None:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        if self._failure is not None:
            kind = LostError if self._failure.code == "crashed" else RefusedError
            raise kind(self._failure.code, self._failure.message)
        tokens, self._tokens = self._tokens, []
        return tokens, self._finish_reason

    def put(self, token: int, finish_reason: FinishReason | None) -> None:
        """Hand over one token."""
        self._tokens.append(token)
        self._finish_reason = finish_reason
        self._wake()

    def tell(self, prefill: Prefill) -> None:
        """Hand over how much was read."""
        self.prefill = prefill
        self._wake()

    def fail(self, failure: Failure) -> None:
        """End with `failure`."""
        self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
