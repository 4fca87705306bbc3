"""Images and videos on their way to a model: files that are removed when their request is answered."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from bus.blobs import Blobs, Draft


class Held:
    """The files of one request."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._names: list[str] = []

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[Draft]:
        """Give a draft, as `Blobs.writing` does."""
        async with self._blobs.writing() as draft:
            self._names.append(draft.name)
            yield draft

    async def put(self, content: bytes) -> str:
        """Store `content` and return its name."""
        async with self.writing() as draft:
            await asyncio.to_thread(draft.write, content)
        return draft.name

    def release(self) -> None:
        """Remove them."""
        for name in self._names:
            self._blobs.remove(name)


@asynccontextmanager
async def holding(blobs: Blobs) -> AsyncGenerator[Held]:
    """Give what stores files in `blobs`, which are `is_passing`, until the block ends."""
    held = Held(blobs)
    try:
        yield held
    finally:
        held.release()
