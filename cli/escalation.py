"""Ends a child that was told to drain and has not ended in its time: first politely, then for good."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import msgspec
import structlog
from nats.aio.msg import Msg

from bus.client import Bus
from bus.messages.slots import Drain
from bus.subjects import DRAIN, unescape

log = structlog.get_logger()

# Beyond the seconds of the order, and between the two signals.
_GRACE = 5.0


@asynccontextmanager
async def escalating(bus: Bus, pid_of: Callable[[str], int | None]) -> AsyncGenerator[None]:
    """Watch over the orders to drain. `pid_of` returns the process of an instance that is a child of ours and lives."""

    async def watch(instance: str, seconds: float) -> None:
        await asyncio.sleep(seconds + _GRACE)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            pid = pid_of(instance)
            if pid is None:
                return
            log.warning("process.not_drained", instance=instance, pid=pid, signal=sign.name)
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
            await asyncio.sleep(_GRACE)

    async def on_drain(msg: Msg) -> None:
        instance = unescape(msg.subject.split(".")[2])
        if pid_of(instance) is not None:
            order = msgspec.json.decode(msg.data, type=Drain)
            tasks.add(group.create_task(watch(instance, order.seconds)))

    tasks: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as group:
        subscription = await bus.nc.subscribe(DRAIN, cb=on_drain)
        try:
            yield
        finally:
            await subscription.unsubscribe()
            for task in tasks:
                task.cancel()
