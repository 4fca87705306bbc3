"""The historian: keeps the history, a projection of the log in DuckDB, and answers questions about it.

Listens on  fusion.history.list, fusion.history.get, fusion.history.rebuild
Owns        the DuckDB file
Never       decides anything about a job, or is asked before one is run
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import duckdb
import msgspec
import structlog

from actors.supervisor import Child
from bus.client import Bus
from bus.errors import LostError, RefusedError
from bus.messages.history import (
    HistoryQuery,
    HistoryReply,
    JobHistory,
    JobQuery,
    JobRow,
    RebuildHistory,
    Rebuilt,
)
from bus.pull import reading_log
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.streams import stream_last_seq
from bus.subjects import GET_HISTORY, LIST_HISTORY, REBUILD_HISTORY
from eventlog.history import History, OutdatedError
from eventlog.job import Job

log = structlog.get_logger()

T = TypeVar("T")

_BATCH = 1000
# An event taken in alone costs 9 ms of CPU, among forty 0.5 ms: after few, it waits so long (seconds) for more.
_FEW = 100
_PAUSE = 1.0
_REBUILD_PATIENCE = 600.0


class Historian:
    """Owns one history."""

    def __init__(self, bus: Bus, path: Path, keep_days: int) -> None:
        self._bus = bus
        self._path = path
        self._keep = timedelta(days=keep_days)
        self._thread = ThreadPoolExecutor(1, "duckdb")
        self._history: History | None = None
        self._moved = asyncio.Event()
        self._wanted = asyncio.Event()
        self._anew: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
        self.checkpoint = 0

    async def start(self) -> None:
        """Open the file. A damaged one, or one of another version, is deleted: everything in it is in the log."""
        self._history = await self._call(lambda: _open(self._path))
        self.checkpoint = await self._call(lambda: self._open_history.checkpoint)

    async def project(self) -> None:
        """Follow the log, for ever; begin again when asked to."""
        while True:
            async with asyncio.TaskGroup() as group:
                following = group.create_task(self._follow_log())
                asked = await self._anew.get()
                following.cancel()
            await self._call(self._start_anew)
            self.checkpoint = 0
            asked.set_result(None)

    async def list(self, query: HistoryQuery, _: Caller) -> AsyncGenerator[HistoryReply]:
        """Answer with a page of jobs, newest first."""
        await self._reach(query.at_least)
        page = await self._call(
            lambda: self._open_history.page(
                status=query.status, model=query.model, limit=query.limit, offset=query.offset
            )
        )
        yield HistoryReply(jobs=tuple(map(_row, page.jobs)), total=page.total, as_of=self.checkpoint)

    async def get(self, query: JobQuery, _: Caller) -> AsyncGenerator[JobHistory]:
        """Answer with one job and its events."""
        await self._reach(query.at_least)
        job = await self._call(lambda: self._open_history.job(query.job_id))
        if job is None:
            raise RefusedError("job_not_found", f"The history knows no job '{query.job_id}'.", param="job_id")
        events = await self._call(lambda: self._open_history.events_of(query.job_id))
        yield JobHistory(job=_row(job), events=tuple(map(msgspec.Raw, events)), as_of=self.checkpoint)

    async def rebuild(self, _request: RebuildHistory, _: Caller) -> AsyncGenerator[Rebuilt]:
        """Throw the file away and project the log again from its beginning; answer when it is caught up."""
        goal = await stream_last_seq(self._bus.nc, "EVENTS")
        anew: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._anew.put_nowait(anew)
        await anew
        log.info("history.rebuilding", goal=goal)
        await self._reach(goal, _REBUILD_PATIENCE)
        total = await self._call(lambda: self._open_history.page(status=None, model=None, limit=1, offset=0).total)
        yield Rebuilt(as_of=self.checkpoint, jobs=total)

    async def forget(self) -> None:
        """Drop, once an hour, what the log has dropped too."""
        while True:
            await self._call(lambda: self._open_history.forget(datetime.now(UTC) - self._keep))
            await asyncio.sleep(3600)

    async def stop(self) -> None:
        """Close the file."""
        if self._history:
            await self._call(self._history.close)
        self._thread.shutdown()

    async def _reach(self, goal: int, patience: float = 0.0) -> None:
        # A little less than askers wait, so that they hear why.
        patience = patience or 0.9 * self._bus.config.admit_timeout
        try:
            async with asyncio.timeout(patience):
                while self.checkpoint < goal:
                    self._wanted.set()
                    await self._moved.wait()
        except TimeoutError as error:
            message = f"The history has reached event {self.checkpoint} of the log, not yet {goal}."
            raise LostError("timeout", message, retry_after=1) from error

    async def _follow_log(self) -> None:
        async with reading_log(self._bus, self.checkpoint) as reader:
            while True:
                entries = await reader.batch(_BATCH)
                await self._call(partial(self._open_history.ingest, entries))
                self.checkpoint = entries[-1].seq
                self._moved.set()
                self._moved = asyncio.Event()
                self._wanted.clear()
                if len(entries) < _FEW:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_PAUSE):
                            await self._wanted.wait()

    @property
    def _open_history(self) -> History:
        assert self._history is not None  # noqa: S101 - start comes first
        return self._history

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _start_anew(self) -> None:
        self._open_history.close()
        _remove(self._path)
        self._history = History(self._path)


def _open(path: Path) -> History:
    try:
        return History(path)
    except (duckdb.Error, OutdatedError) as error:
        if "lock" in str(error):
            raise  # Another process has it: no reason to throw it away.
        what = "history.damaged" if isinstance(error, duckdb.Error) else "history.outdated"
        log.warning(what, path=str(path), error=str(error))
        _remove(path)
        return History(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".wal").unlink(missing_ok=True)


def _row(job: Job) -> JobRow:
    return JobRow(**{name: getattr(job, name) for name in JobRow.__struct_fields__})


def child(bus: Bus, path: Path, keep_days: int, instance: str) -> Child:
    """Return what the supervisor needs to run this actor."""

    async def run() -> None:
        historian = Historian(bus, path, keep_days)
        await historian.start()
        info = ServiceInfo(
            name="fusion-history",
            instance=instance,
            description="The history of jobs, projected from the log",
            stats=lambda: {"checkpoint": historian.checkpoint},
        )
        endpoints = (
            Endpoint(LIST_HISTORY(), historian.list),
            Endpoint(GET_HISTORY(), historian.get),
            Endpoint(REBUILD_HISTORY(), historian.rebuild),
        )
        try:
            async with serving(bus, info, *endpoints) as served:
                served.group.create_task(historian.forget())
                await historian.project()
        finally:
            await historian.stop()

    return Child("historian", run)
