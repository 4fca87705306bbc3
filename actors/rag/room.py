"""How much may be in memory at a time: whoever needs more waits until others have left."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Room:
    """`size` bytes that several share, first come, first served. Each takes a `least` at least."""

    def __init__(self, size: int, least: int) -> None:
        self._size = size
        self._least = least
        self._free = size
        self._turn = asyncio.Lock()
        self._left = asyncio.Event()

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncGenerator[None]:
        """Have so many bytes until the block ends. Who needs more than there is has all of it."""
        wanted = min(max(size, self._least), self._size)
        async with self._turn:
            while self._free < wanted:
                self._left.clear()
                await self._left.wait()
            self._free -= wanted
        try:
            yield
        finally:
            self._free += wanted
            self._left.set()
