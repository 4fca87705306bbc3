"""Whether one more job may be accepted: there is a limit for each model, and the log keeps room for how jobs end."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from actors.open_jobs import OpenJobs
from bus.errors import RefusedError
from eventlog.events import Priority

# The part of the log that accepting jobs may fill; the rest is for their ends.
_FULL = 0.9

# How full it is, is looked at again after so many seconds, or so many jobs.
_LOOK_PERIOD = 1.0
_LOOK_COUNT = 25
_RETRY_AFTER = 5.0


class Admission:
    """Admits at most `most` waiting jobs per model. `fill` tells which part of the log is full."""

    def __init__(self, open_jobs: OpenJobs, fill: Callable[[], Awaitable[float]], most: int) -> None:
        self._open = open_jobs
        self._fill = fill
        self._most = most
        self._arriving: Counter[str] = Counter()
        self._filled = 0.0
        self._looked_at = float("-inf")
        self._since = 0

    async def check_storage(self) -> None:
        """Raise `RefusedError` when the log is nearly full."""
        self._since += 1
        if self._since > _LOOK_COUNT or time.monotonic() - self._looked_at >= _LOOK_PERIOD:
            self._looked_at, self._since = time.monotonic(), 0
            self._filled = await self._fill()
        if self._filled > _FULL:
            message = f"The event log is full to {self._filled:.0%}; no job is accepted above {_FULL:.0%}."
            raise RefusedError("storage_full", message)

    @contextmanager
    def admitting(self, model: str, operation: str, priority: Priority) -> Generator[None]:
        """Hold a place for a job of `model` while it is recorded. Raises `RefusedError` when none is left."""
        waiting = self._open.count(model) + self._arriving[model]
        if waiting >= self._most:
            number = self._open.number(model, priority) + self._arriving[model]
            wait = self._open.wait(model, operation, number)
            when = "" if wait is None else f" and begin in about {wait:.0f} s"
            message = (
                f"{waiting} jobs wait for '{model}', and {self._most} may; this would be number {number} in turn{when}."
            )
            raise RefusedError("queue_full", message, param="model_id", retry_after=_RETRY_AFTER)
        self._arriving[model] += 1
        try:
            yield
        finally:
            self._arriving[model] -= 1
