"""Images and videos on their way to a model: files that are removed when their request is answered."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from bus.blobs import Blobs, Draft


class Uploads:
    """A folder of them. Equal files are one, which stays as long as a request of this process uses it."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._uses: Counter[str] = Counter()

    @asynccontextmanager
    async def held(self) -> AsyncGenerator["Held"]:
        """Give what stores files until the block ends."""
        held = Held(self._blobs, self._uses)
        try:
            yield held
        finally:
            held.release()


class Held:
    """The files of one request."""

    def __init__(self, blobs: Blobs, uses: Counter[str]) -> None:
        self._blobs = blobs
        self._uses = uses
        self._names: list[str] = []

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[Draft]:
        """Give a draft, as `Blobs.writing` does."""
        async with self._blobs.writing() as draft:
            yield draft
            # Before it gets its name: another request that ends meanwhile would remove it.
            self._names.append(draft.name)
            self._uses[draft.name] += 1

    async def put(self, content: bytes) -> str:
        """Store `content` and return its name."""
        async with self.writing() as draft:
            await asyncio.to_thread(draft.write, content)
        return draft.name

    def release(self) -> None:
        """Remove what no other request uses."""
        for name in self._names:
            self._uses[name] -= 1
            if not self._uses[name]:
                del self._uses[name]
                self._blobs.remove(name)
