"""Threads that read a projection in DuckDB while it is written; a reading that takes too long is interrupted."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import duckdb

from bus.errors import LostError

T = TypeVar("T")

_READERS = 4


class Readers:
    """The threads of one projection, which the error of a reading calls `what`."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._threads = ThreadPoolExecutor(_READERS, f"{what}-reader")
        self._reading: set[asyncio.Future[Any]] = set()

    async def read(
        self, cursor: duckdb.DuckDBPyConnection, work: Callable[[duckdb.DuckDBPyConnection], T], seconds: float
    ) -> T:
        """Return what `work` reads with `cursor`, which is closed then. Raises `LostError` ("timeout")."""
        gone = threading.Event()
        reading = asyncio.get_running_loop().run_in_executor(self._threads, _read, work, cursor, gone)
        self._reading.add(reading)
        reading.add_done_callback(self._has_read)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(reading)
        except TimeoutError as error:
            raise LostError("timeout", f"The {self._what} took longer than {seconds:g} s to answer.") from error
        finally:
            if not reading.done():
                gone.set()
                cursor.interrupt()

    async def quiet(self) -> None:
        """Return when nothing is read."""
        while self._reading:
            await asyncio.wait(self._reading)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _has_read(self, reading: asyncio.Future[Any]) -> None:
        self._reading.discard(reading)
        if not reading.cancelled():
            reading.exception()  # Of one that nobody waits for any more, nobody asks.


def _read(
    work: Callable[[duckdb.DuckDBPyConnection], T], cursor: duckdb.DuckDBPyConnection, gone: threading.Event
) -> T:
    with cursor:
        if gone.is_set():  # What has not begun cannot be interrupted.
            raise duckdb.InterruptException
        return work(cursor)
