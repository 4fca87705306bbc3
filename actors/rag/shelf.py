"""The blobs of documents: kept while a document has them, and not a moment longer."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from bus.blobs import Blobs

log = structlog.get_logger()

_PERIOD = 3600.0
_PIECE = 2**20


class Pins:
    """The blobs that somebody needs who is storing a document: until it is there, or never will be."""

    def __init__(self, pinned: Counter[str], leaving: list[set[str]]) -> None:
        self.names: set[str] = set()
        self._pinned = pinned
        self._leaving = leaving

    def add(self, name: str) -> None:
        """Keep the blob, also from those who are about to delete it."""
        if name not in self.names:
            self.names.add(name)
            self._pinned[name] += 1
            for leaving in self._leaving:
                leaving.discard(name)


class Shelf:
    """A folder of blobs. `named` returns which of some blobs the documents have that are there."""

    def __init__(self, folder: Path, named: Callable[[Iterable[str]], Awaitable[set[str]]]) -> None:
        self._folder = folder
        self.blobs = Blobs(folder)
        self._named = named
        self._pinned: Counter[str] = Counter()
        # Those that were to be deleted when they were pinned.
        self._missed: set[str] = set()
        # Those that each removal under way is about to delete.
        self._leaving: list[set[str]] = []

    @contextmanager
    def pinning(self) -> Generator[Pins]:
        """Keep blobs until the block ends."""
        pins = Pins(self._pinned, self._leaving)
        try:
            yield pins
        finally:
            self._pinned -= Counter(pins.names)

    async def take(self, name: str, source: Blobs) -> Path | None:
        """Return the file of the blob, copied from `source` if it is not here; None where it is neither here nor there.

        Raises `RefusedError` ("storage_full").
        """
        path = await self.blobs.find(name)
        if path is not None:
            return path
        file = await source.open(name)
        if file is None:
            return None
        with file:
            async with self.blobs.writing() as draft:
                while piece := await asyncio.to_thread(file.read, _PIECE):
                    await asyncio.to_thread(draft.write, piece)
        return await self.blobs.find(name)

    async def remove(self, names: Iterable[str]) -> int:
        """Delete those of the blobs that no document has, once nobody needs them; return how many.

        Those that are pinned are deleted by a later call, for whichever blobs.
        """
        wanted = self._missed.union(names)
        leaving = {name for name in wanted if name not in self._pinned}
        self._missed = wanted - leaving
        if not leaving:
            return 0
        # Whoever pins one of them from here on takes it out.
        self._leaving.append(leaving)
        try:
            leaving -= await self._named(tuple(leaving))
        finally:
            self._leaving[:] = [each for each in self._leaving if each is not leaving]
        for name in leaving:
            self.blobs.remove(name)
        return len(leaving)

    async def tidy(self) -> None:
        """Delete what no document has, such as a crash leaves."""
        names = await asyncio.to_thread(self._names)
        log.debug("rag.swept", count=await self.remove(names))

    async def sweep(self) -> None:
        """Tidy once and then every hour, for ever."""
        while True:
            await self.tidy()
            await asyncio.sleep(_PERIOD)

    def _names(self) -> list[str]:
        for draft in self._folder.glob("drafts/*"):
            with suppress(FileNotFoundError):
                if draft.stat().st_mtime < time.time() - _PERIOD:
                    draft.unlink()
        return [path.name for path in self._folder.glob("??/*")]
