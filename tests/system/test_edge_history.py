"""The history over HTTP, with a real historian behind the edge."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import pytest_asyncio

from actors import historian
from bus.errors import LostError
from bus.events import EventLog
from bus.messages.history import HistoryQuery
from bus.streams import ensure_streams
from bus.subjects import LIST_HISTORY
from tests.support import make
from tests.support.nats import server_running, until_it
from tests.support.stack import Stack, stack

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENTS = (
    make.job_queued(),
    make.request_finished(key="key-a", prompt_tokens=5, completion_tokens=7, total=0.5),
    make.request_finished(at=make.at(86_400)),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stack]:
    folder = tmp_path_factory.mktemp("history")
    async with server_running(folder) as server, stack(server.url, folder) as running:
        await ensure_streams(running.bus.nc, keep_days=7)
        for event in EVENTS:
            await EventLog(running.bus).record(event)
        child = historian.child(running.bus, folder / "h", running.blobs, 100_000, "historian-1")
        life = asyncio.ensure_future(child.run())
        await until_it(lambda: has_all(running))
        yield running
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


async def has_all(edge: Stack) -> bool:
    try:
        await edge.bus.ask(LIST_HISTORY(), HistoryQuery(at_least=len(EVENTS)))
    except LostError:
        return False
    return True


async def get(edge: Stack, path: str, **query: str) -> tuple[int, Any]:
    async with edge.http.get(path, params=query) as response:
        return response.status, await response.json()


async def select(edge: Stack, sql: str, **more: Any) -> tuple[int, Any]:
    async with edge.http.post("/api/history/query", json={"sql": sql} | more) as response:
        return response.status, await response.json()


async def test_views_are_listed(edge: Stack) -> None:
    status, answer = await get(edge, "/api/history")

    assert status == 200
    assert {"name": "usage", "about": "requests, tokens and seconds, per day, API key and model",
            "bucket": "day", "has_key": True} in answer["views"]  # fmt: skip
    assert "attempts" in answer["tables"]


async def test_view_has_a_row_for_each_day_key_and_model(edge: Stack) -> None:
    row = {"day": "2026-01-02", "key": "key-a", "model": make.MODEL, "requests": 1, "prompt_tokens": 5,
           "completion_tokens": 7, "cached_tokens": 0, "seconds": 0.5}  # fmt: skip
    times = {"since": "2026-01-02T00:00:00Z", "until": "2026-01-02T23:00:00Z"}

    status, answer = await get(edge, "/api/history/usage", model_id=make.MODEL, key="key-a", limit="5", **times)
    _, everything = await get(edge, "/api/history/usage", limit="1")

    assert (status, answer) == (200, {"view": "usage", "rows": [row], "truncated": False, "as_of": 3})
    assert [(row["day"], row["key"]) for row in everything["rows"]] == [("2026-01-03", "anonymous")]
    assert everything["truncated"] is True


async def test_sql_is_answered_by_rows(edge: Stack) -> None:
    answer = await select(edge, "SELECT outcome, count(*) AS n FROM requests GROUP BY ALL", limit=10)

    assert answer == (200, {"columns": ["outcome", "n"], "rows": [["completed", 2]], "truncated": False, "as_of": 3})


async def test_table_can_be_downloaded(edge: Stack, tmp_path: Path) -> None:
    async with edge.http.get("/api/history/export/requests") as response:
        (tmp_path / "requests.parquet").write_bytes(await response.read())

    assert response.headers["Content-Disposition"] == 'attachment; filename="requests.parquet"'
    assert response.content_type == "application/vnd.apache.parquet"
    assert len(duckdb.sql(f"FROM '{tmp_path}/requests.parquet'").fetchall()) == 2


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/api/history/secrets", {}, "view"),
        ("/api/history/failures", {"key": "key-a"}, "key"),
        ("/api/history/usage", {"since": "yesterday"}, "since"),
        ("/api/history/usage", {"limit": "10001"}, "limit"),
        ("/api/history/usage", {"limit": "0"}, "limit"),
        ("/api/history/usage", {"model": "x"}, "model"),
        ("/api/history/export/secrets", {}, "table"),
    ],
)
async def test_bad_question_is_refused_by_name(edge: Stack, path: str, query: dict[str, str], param: str) -> None:
    status, answer = await get(edge, path, **query)

    assert (status, answer["error"]["param"], answer["error"]["type"]) == (400, param, "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"sql": "SELECT nothing FROM jobs"}, "sql"),
        ({"sql": "DROP TABLE jobs"}, "sql"),
        ({"sql": ""}, "sql"),
        ({}, "sql"),
        ({"sql": "SELECT 1", "limit": 10_001}, "limit"),
        ({"sql": "SELECT 1", "table": "jobs"}, "table"),
    ],
)
async def test_bad_sql_is_refused_by_name(edge: Stack, body: dict[str, Any], param: str) -> None:
    async with edge.http.post("/api/history/query", json=body) as response:
        answer = await response.json()

    assert (response.status, answer["error"]["param"]) == (400, param)
