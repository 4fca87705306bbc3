"""What the historian is asked for beside jobs: views, SQL and files."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import pytest_asyncio
from msgspec import Struct

from actors import historian
from bus.blobs import Blobs
from bus.client import Bus
from bus.errors import LostError, RefusedError
from bus.events import EventLog
from bus.messages.history import (
    ExportHistory,
    HistoryQuery,
    HistoryStats,
    HistoryTable,
    ListViews,
    QueryHistory,
)
from bus.streams import ensure_streams
from bus.subjects import EXPORT_HISTORY, HISTORY_STATS, LIST_HISTORY, LIST_VIEWS, QUERY_HISTORY
from tests.support import make
from tests.support.nats import connected, server_running, until, until_it

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENTS = (
    *(make.job_queued(job_id=f"job-{n}", at=make.at(n), metadata={"user": f"u{n % 2}"}) for n in range(5)),
    make.request_finished(key="key-a", completion_tokens=7),
)


class World(Struct):
    """A historian, and the ways to it."""

    bus: Bus
    blobs: Blobs
    folder: Path

    async def sql(self, sql: str, limit: int = 1000) -> HistoryTable:
        return await self.bus.ask(QUERY_HISTORY(), QueryHistory(sql=sql, limit=limit), patience=60)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    folder = tmp_path_factory.mktemp("asked")
    async with server_running(folder) as server, connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        blobs = Blobs(folder / "blobs")
        for event in EVENTS:
            await EventLog(bus).record(event)
        life = asyncio.ensure_future(historian.child(bus, folder / "h", blobs, 100_000, "historian-1").run())
        await until_it(lambda: has_all(bus))
        yield World(bus, blobs, folder)
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


async def has_all(bus: Bus) -> bool:
    try:
        await bus.ask(LIST_HISTORY(), HistoryQuery(at_least=len(EVENTS)))
    except LostError:
        return False
    return True


async def test_views_and_tables_are_listed(world: World) -> None:
    reply = await world.bus.ask(LIST_VIEWS(), ListViews())

    assert [(view.name, view.bucket) for view in reply.views if view.has_key] == [("usage", "day")]
    assert {"throughput", "queue_time", "first_token", "tokens_per_second", "failures"} < {v.name for v in reply.views}
    assert reply.tables == ("events", "jobs", "attempts", "requests", "models", "deliveries")


async def test_view_is_answered(world: World) -> None:
    reply = await world.bus.ask(HISTORY_STATS(), HistoryStats(view="usage", key="key-a", since=make.at(-86_400)))

    assert reply.columns[:4] == ("day", "key", "model", "requests")
    assert [row[:4] for row in reply.rows] == [("2026-01-02", "key-a", make.MODEL, 1)]
    assert (reply.truncated, reply.as_of) == (False, len(EVENTS))


@pytest.mark.parametrize(
    ("query", "param"), [({"view": "secrets"}, "view"), ({"view": "failures", "key": "key-a"}, "key")]
)
async def test_view_that_there_is_not_is_refused(world: World, query: dict[str, str], param: str) -> None:
    with pytest.raises(RefusedError) as refused:
        await world.bus.ask(HISTORY_STATS(), HistoryStats(**query))

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", param)


async def test_pages_follow_each_other_by_cursor(world: World) -> None:
    first = await world.bus.ask(LIST_HISTORY(), HistoryQuery(limit=2, sort="created_at", metadata={"user": "u0"}))
    rest = await world.bus.ask(
        LIST_HISTORY(), HistoryQuery(limit=2, sort="created_at", metadata={"user": "u0"}, cursor=first.next_cursor)
    )

    assert [job.job_id for job in first.jobs + rest.jobs] == ["job-0", "job-2", "job-4"]
    assert (first.total, rest.total, rest.next_cursor) == (3, 3, None)


@pytest.mark.parametrize(("query", "param"), [({"cursor": "x"}, "cursor"), ({"cursor": "x", "offset": 1}, "offset")])
async def test_page_that_cannot_be_found_is_refused(world: World, query: dict[str, Any], param: str) -> None:
    with pytest.raises(RefusedError) as refused:
        await world.bus.ask(LIST_HISTORY(), HistoryQuery(**query))

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", param)


async def test_sql_sees_what_was_taken_in_a_moment_ago(world: World) -> None:
    reply = await world.sql("SELECT job_id FROM jobs WHERE metadata LIKE '%u1%' ORDER BY job_id", limit=1)

    assert reply == HistoryTable(columns=("job_id",), rows=(("job-1",),), truncated=True, as_of=len(EVENTS))


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT nothing FROM jobs", "Referenced column"),
        ("COPY jobs TO '/tmp/stolen'", "only one that selects"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled by configuration"),
        ("SELECT repeat('x', 10000000)", "One row is 10000004 bytes"),
        ("SELECT list_sum(range(1000000000))", "Out of Memory"),
        ("SELECT len(repeat(repeat('x', 1000000), 3000))", "Out of Memory"),
    ],
)
async def test_sql_that_asks_too_much_is_told_so(world: World, sql: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as refused:
        await world.sql(sql)

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", "sql")
    assert str(world.folder) not in str(refused.value)


async def test_queries_that_do_not_end_are_ended_and_hold_up_nothing(world: World) -> None:
    endless = [
        asyncio.ensure_future(
            world.sql("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r")
        ),
        asyncio.ensure_future(world.sql("SELECT sum(a.range * b.range) FROM range(1000000) AS a, range(1000000) AS b")),
    ]
    await until(lambda: len(list(world.folder.glob("h-*"))) == 2)

    with pytest.raises(RefusedError) as refused:
        await world.sql("SELECT 1")
    seq = await EventLog(world.bus).record(make.request_finished())
    reply = await world.bus.ask(LIST_HISTORY(), HistoryQuery(at_least=seq), patience=20)
    endings = await asyncio.gather(*endless, return_exceptions=True)

    assert refused.value.code == "queue_full"
    assert reply.as_of >= seq
    assert [str(ending) for ending in endings] == ["The query took longer than 5 s."] * 2
    assert sorted(path.name for path in world.folder.glob("h*")) in (["h"], ["h", "h.wal"])


async def test_query_has_its_time_from_when_its_process_has_started(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(6)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    reply = await world.sql("SELECT 1 AS n")

    assert reply.rows == ((1,),)


@pytest.mark.parametrize("table", ["jobs", "usage"])
async def test_table_is_exported_as_parquet(world: World, table: str) -> None:
    exported = await world.bus.ask(EXPORT_HISTORY(), ExportHistory(table=table), patience=30)
    content = await world.blobs.get(exported.blob)
    assert content is not None
    (world.folder / f"{table}.parquet").write_bytes(content)

    rows = duckdb.sql(f"FROM '{world.folder}/{table}.parquet'").fetchall()

    assert len(content) == exported.size_bytes
    assert len(rows) == {"jobs": 5}.get(table, len(rows)) > 0


async def test_table_that_there_is_not_is_not_exported(world: World) -> None:
    with pytest.raises(RefusedError) as refused:
        await world.bus.ask(EXPORT_HISTORY(), ExportHistory(table="jobs; DROP TABLE jobs"))

    assert refused.value.failure.param == "table"
