"""The historian: keeps the history, a projection of the log in DuckDB, and answers questions about it.

Listens on  fusion.history.list, .get, .views, .stats, .query, .export, .rebuild
Owns        the DuckDB file
Never       decides anything about a job, or is asked before one is run
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import msgspec
import structlog

from actors.history_file import HistoryFile, folder_beside
from actors.history_rebuild import rebuild
from actors.history_sql import SqlQueries
from actors.supervisor import Child
from bus.blobs import Blobs
from bus.client import Bus
from bus.errors import BusError, LostError, RefusedError
from bus.messages.history import (
    Exported,
    ExportHistory,
    HistoryQuery,
    HistoryReply,
    HistoryStats,
    HistoryTable,
    JobHistory,
    JobQuery,
    JobRow,
    ListViews,
    QueryHistory,
    RebuildHistory,
    Rebuilt,
    ViewCard,
    ViewList,
)
from bus.pull import reading_log
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.subjects import (
    EXPORT_HISTORY,
    GET_HISTORY,
    HISTORY_STATS,
    LIST_HISTORY,
    LIST_VIEWS,
    QUERY_HISTORY,
    REBUILD_HISTORY,
)
from eventlog.history import History
from eventlog.history_query import (
    CursorError,
    PageQuery,
    StatsQuery,
    Table,
    count_jobs,
    events_of,
    export,
    find_job,
    page,
    stats,
)
from eventlog.history_schema import TABLES, VIEWS
from eventlog.job import Job

log = structlog.get_logger()

StructT = TypeVar("StructT", bound=msgspec.Struct)

_BATCH = 20_000
# An event taken in alone costs 9 ms of CPU, among forty 0.5 ms: after few, it waits so long (seconds) for more.
_FEW = 100
_PAUSE = 1.0
_EXPORT_SECONDS = 60.0


class Historian:
    """Owns one history."""

    def __init__(self, bus: Bus, path: Path, blobs: Blobs, keep_days: int) -> None:
        self._bus = bus
        self._file = HistoryFile(path)
        self._sql = SqlQueries(self._file, bus.nc.max_payload)
        self._blobs = blobs
        self._exporting = asyncio.Lock()
        self._keep = timedelta(days=keep_days)
        self._moved = asyncio.Event()
        self._wanted = asyncio.Event()
        self._anew: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    @property
    def checkpoint(self) -> int:
        """The sequence of the log that the history has reached."""
        return self._file.checkpoint

    async def start(self) -> None:
        """Open the file."""
        await self._file.open()

    async def project(self) -> None:
        """Follow the log, for ever."""
        async with reading_log(self._bus, self.checkpoint) as reader:
            while True:
                entries = await reader.batch(_BATCH)
                await self._file.ingest(entries)
                self._moved.set()
                self._moved = asyncio.Event()
                self._wanted.clear()
                if len(entries) < _FEW:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_PAUSE):
                            await self._wanted.wait()

    async def rebuild_when_asked(self) -> None:
        """Rebuild the file each time somebody asks for that; it goes on when they have left."""
        while True:
            asked = await self._anew.get()
            try:
                await rebuild(self._bus, self._file)
            except (BusError, duckdb.Error, OSError) as error:
                log.error("history.not_rebuilt", error=str(error))
                message = f"The history could not be rebuilt, and is as it was: {error}"
                asked.set_exception(LostError("unavailable", message))
            else:
                asked.set_result(None)

    async def list(self, query: HistoryQuery, _: Caller) -> AsyncGenerator[HistoryReply]:
        """Answer with a page of jobs."""
        if query.cursor is not None and query.offset:
            raise RefusedError("invalid_request", "A page is found by 'cursor' or by 'offset'.", param="offset")
        await self._reach(query.at_least)
        try:
            found = await self._file.read(partial(page, query=_same_fields(query, PageQuery)))
        except CursorError as error:
            raise RefusedError("invalid_request", str(error), param="cursor") from error
        yield HistoryReply(
            jobs=tuple(map(_row, found.jobs)),
            total=found.total,
            as_of=self.checkpoint,
            next_cursor=found.next_cursor,
        )

    async def get(self, query: JobQuery, _: Caller) -> AsyncGenerator[JobHistory]:
        """Answer with one job and its events."""
        await self._reach(query.at_least)
        job = await self._file.read(partial(find_job, job_id=query.job_id))
        if job is None:
            raise RefusedError("job_not_found", f"The history knows no job '{query.job_id}'.", param="job_id")
        events = await self._file.read(partial(events_of, job_id=query.job_id))
        yield JobHistory(job=_row(job), events=tuple(map(msgspec.Raw, events)), as_of=self.checkpoint)

    async def views(self, _request: ListViews, _: Caller) -> AsyncGenerator[ViewList]:
        """Answer with what can be asked for."""
        cards = tuple(
            ViewCard(name=name, about=view.about, bucket=view.bucket, has_key=view.has_key)
            for name, view in VIEWS.items()
        )
        yield ViewList(views=cards, tables=tuple(TABLES))

    async def stats(self, query: HistoryStats, _: Caller) -> AsyncGenerator[HistoryTable]:
        """Answer with rows of a view."""
        view = VIEWS.get(query.view)
        if view is None:
            raise _unknown("view", query.view, *VIEWS)
        if query.key is not None and not view.has_key:
            raise RefusedError("invalid_request", f"The view '{query.view}' is not by key.", param="key")
        yield self._answer(await self._file.read(partial(stats, query=_same_fields(query, StatsQuery))))

    async def query(self, query: QueryHistory, _: Caller) -> AsyncGenerator[HistoryTable]:
        """Answer with what a SELECT gives."""
        yield self._answer(await self._sql.run(query.sql, query.limit))

    async def export(self, request: ExportHistory, _: Caller) -> AsyncGenerator[Exported]:
        """Write a table or view to a blob."""
        if request.table not in TABLES and request.table not in VIEWS:
            raise _unknown("table", request.table, *TABLES, *VIEWS)
        as_of = self.checkpoint
        async with self._exporting:
            content = await self._exported(request.table)
        blob = await self._blobs.put(content)
        yield Exported(table=request.table, blob=blob, size_bytes=len(content), as_of=as_of)

    async def rebuild(self, _request: RebuildHistory, _: Caller) -> AsyncGenerator[Rebuilt]:
        """Project the log again from its beginning; answer when the result has taken the place of the old file."""
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._anew.put_nowait(asked)
        await asyncio.shield(asked)
        yield Rebuilt(as_of=self.checkpoint, jobs=await self._file.read(count_jobs))

    async def forget(self) -> None:
        """Drop, once an hour, what the log has dropped too."""
        while True:
            before = datetime.now(UTC) - self._keep
            await self._file.write(partial(History.forget, before=before))
            await asyncio.sleep(3600)

    async def stop(self) -> None:
        """Close the file."""
        await self._file.close()

    async def _reach(self, goal: int) -> None:
        # A little less than askers wait, so that they hear why.
        try:
            async with asyncio.timeout(0.9 * self._bus.config.admit_timeout):
                while self.checkpoint < goal:
                    self._wanted.set()
                    await self._moved.wait()
        except TimeoutError as error:
            message = f"The history has reached event {self.checkpoint} of the log, not yet {goal}."
            raise LostError("timeout", message, retry_after=1) from error

    async def _exported(self, table: str) -> bytes:
        with folder_beside(self._file.path) as folder:
            path = Path(folder) / "table.parquet"
            await self._file.read(partial(export, table=table, to=path), _EXPORT_SECONDS)
            return await asyncio.to_thread(path.read_bytes)

    def _answer(self, table: Table) -> HistoryTable:
        return HistoryTable(columns=table.columns, rows=table.rows, truncated=table.truncated, as_of=self.checkpoint)


def _unknown(what: str, name: str, *known: str) -> RefusedError:
    message = f"The history has no {what} '{name}'; it has {', '.join(known)}."
    return RefusedError("invalid_request", message, param=what)


def _same_fields(message: msgspec.Struct, kind: type[StructT]) -> StructT:
    fields: dict[str, Any] = {name: getattr(message, name) for name in kind.__struct_fields__}
    return kind(**fields)


def _row(job: Job) -> JobRow:
    return _same_fields(job, JobRow)


def child(bus: Bus, path: Path, blobs: Blobs, keep_days: int, instance: str) -> Child:
    """Return what the supervisor needs to run this actor."""

    async def run() -> None:
        historian = Historian(bus, path, blobs, keep_days)
        info = ServiceInfo(
            name="fusion-history",
            instance=instance,
            description="The history of jobs, projected from the log",
            stats=lambda: {"checkpoint": historian.checkpoint},
        )
        endpoints = (
            Endpoint(LIST_HISTORY(), historian.list),
            Endpoint(GET_HISTORY(), historian.get),
            Endpoint(LIST_VIEWS(), historian.views),
            Endpoint(HISTORY_STATS(), historian.stats),
            Endpoint(QUERY_HISTORY(), historian.query),
            Endpoint(EXPORT_HISTORY(), historian.export),
            Endpoint(REBUILD_HISTORY(), historian.rebuild),
        )
        try:
            await historian.start()
            async with serving(bus, info, *endpoints) as served:
                served.group.create_task(historian.forget())
                served.group.create_task(historian.rebuild_when_asked())
                await historian.project()
        finally:
            await historian.stop()

    return Child("historian", run)
