"""The file of the history: one thread writes it, others read it meanwhile, and another file can take its place."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import duckdb

from actors.projection_file import opened, wal_of
from actors.projection_readers import Readers
from eventlog.events import Recorded
from eventlog.history import History

T = TypeVar("T")

_READ_SECONDS = 5.0


class HistoryFile:
    """Owns one history, and the threads on which it is written and read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = 0
        self._history: History | None = None
        self._writer = ThreadPoolExecutor(1, "history-writer")
        self._readers = Readers("history")
        self._writing = asyncio.Lock()
        self._may_read = asyncio.Event()

    async def open(self) -> None:
        """Open the file. A damaged one, or one of another version, is deleted: everything in it is in the log."""
        self._history = await self._on_writer(lambda: _open(self.path))
        self.checkpoint = self._history.checkpoint
        self._may_read.set()

    async def close(self) -> None:
        """Close the file."""
        await self._readers.quiet()
        await self._on_writer(self._close)
        self._writer.shutdown()
        self._readers.close()

    async def ingest(self, entries: Sequence[Recorded]) -> None:
        """Take in `entries`, in the order of the log; those that are in already are left out."""
        await self.write(lambda history: history.ingest(entries))
        self.checkpoint = max(self.checkpoint, self._now.checkpoint)

    async def write(self, work: Callable[[History], T]) -> T:
        """Return what `work` does between two batches of events."""
        async with self._writing:
            return await self._on_writer(lambda: work(self._now))

    async def read(self, work: Callable[[duckdb.DuckDBPyConnection], T], seconds: float = _READ_SECONDS) -> T:
        """Return what `work` reads, beside what is written meanwhile. Raises `LostError` ("timeout")."""
        await self._may_read.wait()
        return await self._readers.read(self._now.cursor, work, seconds)

    async def copy(self, to: Path) -> None:
        """Copy the file as it is between two batches of events."""
        await self.write(lambda _: _copy(self.path, to))

    @asynccontextmanager
    async def replaced_by(self, other: Path) -> AsyncGenerator[None]:
        """Write nothing while the block brings `other` to where this file is, then have it take its place."""
        async with self._writing:
            yield
            self._may_read.clear()
            try:
                await self._readers.quiet()
                await self._on_writer(lambda: self._take_over(other))
            finally:
                self._may_read.set()

    def _close(self) -> None:
        if self._history is not None:
            self._history.close()

    def _take_over(self, other: Path) -> None:
        self._now.close()
        other.replace(self.path)
        self._history = History(self.path)

    @property
    def _now(self) -> History:
        assert self._history is not None  # noqa: S101 - open comes first
        return self._history

    async def _on_writer(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)


def folder_beside(path: Path) -> "tempfile.TemporaryDirectory[str]":
    """Return a folder for what is made of the file at `path`. One that is left over is deleted when that is opened."""
    return tempfile.TemporaryDirectory(prefix=f"{path.name}-", dir=path.parent)


def _open(path: Path) -> History:
    for left in path.parent.glob(f"{path.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    return opened("history", path, History)


def _copy(path: Path, to: Path) -> None:
    # What was committed since the last checkpoint is in the log only.
    for source, target in ((path, to), (wal_of(path), wal_of(to))):
        if source.exists():
            shutil.copyfile(source, target)
