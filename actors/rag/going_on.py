"""Work that takes longer than an asker waits to hear of it."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from bus.frames import Status

T = TypeVar("T")

# Far less than an asker waits between two frames, in seconds.
_PERIOD = 15.0


async def going_on(work: Coroutine[Any, Any, T], instance: str) -> AsyncGenerator[T | Status]:
    """Say at once, and again and again, that `work` goes on; then yield what it gives. It ends when nobody listens."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            yield Status(instance=instance)
            await asyncio.wait((task,), timeout=_PERIOD)
        yield task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
