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
        self,
        cursor: Callable[[], duckdb.DuckDBPyConnection],
        work: Callable[[duckdb.DuckDBPyConnection], T],
        seconds: float,
    ) -> T:
        """Return what `work` reads with a `cursor`, which is closed then. Raises `LostError` ("timeout")."""
        one = _Reading(cursor)
        reading = asyncio.get_running_loop().run_in_executor(self._threads, one.read, work)
        self._reading.add(reading)
        reading.add_done_callback(self._has_read)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(reading)
        except TimeoutError as error:
            raise LostError("timeout", f"The {self._what} took longer than {seconds:g} s to answer.") from error
        finally:
            if not reading.done():
                one.interrupt()

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


class _Reading:
    """One reading, by one thread; another may interrupt it."""

    def __init__(self, cursor: Callable[[], duckdb.DuckDBPyConnection]) -> None:
        self._make = cursor
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._is_over = False
        self._lock = threading.Lock()

    def read(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Return what `work` reads. Raises `duckdb.InterruptException`."""
        with self._lock:
            if self._is_over:  # What has not begun cannot be interrupted.
                raise duckdb.InterruptException
            self._cursor = self._make()
        with self._cursor as cursor:
            try:
                return work(cursor)
            finally:
                with self._lock:
                    self._cursor = None

    def interrupt(self) -> None:
        """End it; nobody waits for it any more."""
        with self._lock:
            self._is_over = True
            if self._cursor is not None:
                self._cursor.interrupt()
