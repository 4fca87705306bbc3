"""Has whoever asks know that the work goes on, which otherwise is given up."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from bus.frames import Status

T = TypeVar("T")

# Who asks waits for 5 s until the work is taken, and for minutes between two pieces.
_PERIOD = 15.0


async def telling(work: Coroutine[Any, Any, T], instance: str) -> AsyncGenerator[Status | T]:
    """Yield that `instance` is at work, at once and again and again, and last what `work` returns.

    Raises what `work` raises; closing ends it.
    """
    task = asyncio.create_task(work)
    try:
        while not task.done():
            yield Status(instance=instance)
            await asyncio.wait((task,), timeout=_PERIOD)
        yield task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
