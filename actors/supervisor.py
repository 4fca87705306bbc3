"""The supervisor: starts children, restarts them when they end, and gives up when that does not help."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from msgspec import Struct

log = structlog.get_logger()


class GaveUpError(Exception):
    """A child ended more often than its restarts allow."""


class Restarts(Struct, frozen=True, kw_only=True):
    """Restart intensity: at most `most` restarts in `period` seconds, None for any number.

    The back-off doubles from `first_delay`.
    """

    most: int | None = 5
    period: float = 60.0
    first_delay: float = 0.1
    longest_delay: float = 10.0


class Child(Struct, frozen=True):
    """How to run one thing for ever: `run` is cancelled to stop it, and restarted when it ends or raises.

    When a child that is not `essential` ends too often it alone is given up, and `on_given_up` hears of it.
    """

    name: str
    run: Callable[[], Awaitable[None]]
    essential: bool = True
    on_given_up: Callable[[], None] | None = None
    restarts: Restarts = Restarts()


async def supervise(child: Child, clock: Callable[[], float] = time.monotonic) -> None:
    """Run `child` until cancelled. Raises `GaveUpError`, or returns if the child is not essential."""
    restarts, ended = child.restarts, deque[float]()
    while True:
        why = await _run_once(child)
        now = clock()
        ended.append(now)
        while now - ended[0] > restarts.period:
            ended.popleft()
        if restarts.most is not None and len(ended) > restarts.most:
            log.error("child.given_up", child=child.name, ended=len(ended), period=restarts.period, why=why)
            if child.essential:
                message = f"{child.name} ended {len(ended)} times in {restarts.period:g} s; last: {why}"
                raise GaveUpError(message)
            if child.on_given_up:
                child.on_given_up()
            return
        delay = min(restarts.first_delay * 2 ** (len(ended) - 1), restarts.longest_delay)
        log.warning("child.restarting", child=child.name, why=why, delay=delay)
        await asyncio.sleep(delay)


class Supervision:
    """Children that run, and may come and go."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, child: Child) -> None:
        """Run a child too."""
        self._tasks.append(self._group.create_task(supervise(child), name=child.name))

    def remove(self, name: str) -> None:
        """Stop a child; it may do so itself."""
        for task in self._tasks:
            if task.get_name() == name:
                task.cancel()

    def stop(self) -> None:
        """Stop all."""
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def supervising(*children: Child) -> AsyncGenerator[Supervision]:
    """Run `children` until the block ends, then stop them and wait for it. One that gives up ends the block."""
    async with asyncio.TaskGroup() as group:
        supervision = Supervision(group)
        for child in children:
            supervision.add(child)
        try:
            yield supervision
        finally:
            supervision.stop()


async def supervise_all(*children: Child) -> None:
    """Run all `children` until cancelled. Raises an ExceptionGroup with `GaveUpError`."""
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(supervise(child), name=child.name)


async def _run_once(child: Child) -> str:
    log.debug("child.started", child=child.name)
    task = asyncio.current_task()
    try:
        await child.run()
    except asyncio.CancelledError as error:
        if task is None or task.cancelling():
            raise
        # Something inside the child was cancelled, not we: passed on, it would end the supervision in silence.
        return repr(error)
    except Exception as error:
        log.warning("child.ended", child=child.name, error=repr(error), exc_info=error)
        return repr(error)
    return "it returned"
