"""How a search goes: how long its steps take, and what fails while the rest can answer."""

import asyncio
import time
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from bus.errors import BusError
from bus.messages.rag import SearchSeconds

T = TypeVar("T")


class Course:
    """One search. `is_strict`: a step that fails is an error."""

    def __init__(self, *, is_strict: bool = False) -> None:
        self.is_strict = is_strict
        self.is_degraded = False
        self.warnings: list[str] = []
        self._begun = time.monotonic()
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> SearchSeconds:
        """How long each step took, and all until now."""
        return SearchSeconds(**self._seconds, total=time.monotonic() - self._begun)

    @contextmanager
    def timed(self, step: str) -> Generator[None]:
        """Count the block as `step`, a field of `SearchSeconds`."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self._seconds[step] = self._seconds.get(step, 0.0) + time.monotonic() - begun

    def failed(self, warning: str, error: BusError) -> None:
        """Go on without the step that raised `error`, and tell so. Raises it if the search is strict."""
        if self.is_strict:
            raise error
        self.degraded(f"{warning}: {error}")

    def degraded(self, warning: str) -> None:
        """Tell that the answer is not what it would be else."""
        self.is_degraded = True
        self.warnings.append(warning)


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Await all of `work` side by side. Raises what the first one raises, and ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
