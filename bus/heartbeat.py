"""Heartbeats: tells the others once a second that an instance is there, and how it stands."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import psutil
from nats.errors import Error as NatsError

from bus.client import Bus
from bus.messages.presence import Heartbeat
from bus.subjects import HEARTBEAT, fill

PERIOD = 1.0


def plain_beat(
    instance: str, role: str, detail: dict[str, str] | None = None, *, is_ready: Callable[[], bool] = lambda: True
) -> Callable[[], Awaitable[Heartbeat]]:
    """Return a `look` for an instance without an engine: once `is_ready`, it is while its event loop runs."""
    process = psutil.Process()

    async def look() -> Heartbeat:
        return Heartbeat(
            instance=instance,
            role=role,
            state="ready" if is_ready() else "starting",
            pid=process.pid,
            at=time.time(),
            rss_bytes=process.memory_info().rss,
            detail=detail or {},
        )

    return look


async def say(bus: Bus, beat: Heartbeat) -> None:
    """Publish one heartbeat. While the server is away there is nobody to hear it, so that is no error."""
    with suppress(NatsError):
        await bus.publish(fill(HEARTBEAT, beat.instance), beat)


@asynccontextmanager
async def beating(bus: Bus, look: Callable[[], Awaitable[Heartbeat]]) -> AsyncGenerator[None]:
    """Publish what `look` returns at once and then every second, until the block ends.

    An error of `look` ends the block with an ExceptionGroup: an instance that nobody hears of is of no use.
    """

    async def beat() -> None:
        while True:
            await say(bus, await look())
            await asyncio.sleep(PERIOD)

    await say(bus, await look())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(beat(), name="heartbeat")
        try:
            yield
        finally:
            task.cancel()
