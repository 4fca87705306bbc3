"""Subscriptions and the schema of events over HTTP."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from bus.events import EventLog
from bus.streams import ensure_streams
from tests.support import make
from tests.support.stack import Stack, stack
from tests.support.subscriptions import subscribing

PATH = "/api/subscriptions"


@asynccontextmanager
async def _subscriptions(nats_url: str, folder: Path) -> AsyncGenerator[tuple[Stack, EventLog]]:
    async with stack(nats_url, folder) as edge:
        await ensure_streams(edge.bus.nc, keep_days=7)
        async with subscribing(edge.bus):
            yield edge, EventLog(edge.bus)


async def _call(edge: Stack, method: str, path: str = "", **options: Any) -> tuple[int, Any]:
    async with edge.http.request(method, PATH + path, **options) as response:
        return response.status, await response.json()


async def _ended(log: EventLog, *job_ids: str) -> None:
    for job_id in job_ids:
        await log.record(make.job_queued(job_id=job_id))
        await log.record(make.job_completed(job_id=job_id))


async def test_reader_gets_what_it_has_not_acknowledged_as_often_as_it_asks(nats_url: str, tmp_path: Path) -> None:
    async with _subscriptions(nats_url, tmp_path) as (edge, log):
        _, created = await _call(edge, "POST", json={"name": "lab"})
        await _ended(log, "job-1", "job-2", "job-3")
        _, first = await _call(edge, "GET", "/lab/events?limit=2")
        _, again = await _call(edge, "GET", "/lab/events?limit=2")
        last = first["events"][-1]["seq"]
        _, moved = await _call(edge, "POST", "/lab/ack", json={"seq": last})
        _, late = await _call(edge, "POST", "/lab/ack", json={"seq": 1})
        _, rest = await _call(edge, "GET", "/lab/events?wait=10")
        _, listed = await _call(edge, "GET")
        _, deleted = await _call(edge, "DELETE", "/lab")
        gone, _ = await _call(edge, "GET", "/lab/events")

    assert (created["stream"], created["consumer"], created["pending"]) == ("EVENTS", "tier2_lab", 0)
    assert [(each["type"], each["event"]["job_id"]) for each in first["events"]] == [
        ("job.completed", "job-1"),
        ("job.completed", "job-2"),
    ]
    assert again == first
    assert (moved["position"], moved["pending"]) == (last, 1)
    assert late["position"] == last
    assert [each["event"]["job_id"] for each in rest["events"]] == ["job-3"]
    assert [each["name"] for each in listed["subscriptions"]] == ["lab"]
    assert deleted == {"name": "lab", "deleted": True}
    assert gone == 404


async def test_stream_brings_what_is_missed_and_what_comes(nats_url: str, tmp_path: Path) -> None:
    async with _subscriptions(nats_url, tmp_path) as (edge, log):
        await _call(edge, "POST", json={"name": "lab"})
        await _ended(log, "job-1", "job-2")
        async with edge.http.get(PATH + "/lab/events", headers={"Accept": "text/event-stream"}) as response:
            missed = [await _frame(response) for _ in range(2)]
            await _ended(log, "job-3")
            came = await _frame(response)
            await _call(edge, "POST", "/lab/ack", json={"seq": int(missed[0]["id"])})
            await _ended(log, "job-4")
            after = await _frame(response)
        headers = {"Accept": "text/event-stream", "Last-Event-ID": missed[1]["id"]}
        async with edge.http.get(PATH + "/lab/events", headers=headers) as response:
            resumed = await _frame(response)

    assert [each["data"]["job_id"] for each in [*missed, came, after]] == ["job-1", "job-2", "job-3", "job-4"]
    assert {each["event"] for each in [*missed, came, after]} == {"job.completed"}
    assert resumed == came


async def _frame(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return the next frame of the stream that is no comment."""
    while True:
        lines = (await response.content.readuntil(b"\n\n")).decode().strip().splitlines()
        fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
        if fields:
            return fields | {"data": json.loads(fields["data"])}


BAD_BODIES: list[tuple[str, dict[str, Any], str, str]] = [
    ("", {"name": "a b"}, "invalid_request", "name"),
    ("", {"name": "lab", "events": ["job.exploded"]}, "invalid_request", "events[0]"),
    ("", {"name": "lab", "model": "x"}, "unsupported_parameter", "model"),
    ("", {"name": "lab\n"}, "invalid_request", "name"),
    ("/lab/ack", {"seq": 99}, "invalid_request", "seq"),
    ("/lab/ack", {}, "invalid_request", "seq"),
]


async def test_wish_that_cannot_be_met_is_refused_by_field(nats_url: str, tmp_path: Path) -> None:
    async with _subscriptions(nats_url, tmp_path) as (edge, _):
        await _call(edge, "POST", json={"name": "lab"})
        for path, body, code, param in BAD_BODIES:
            status, answer = await _call(edge, "POST", path, json=body)

            assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, code, param), body


async def test_schema_of_all_events_and_of_one_can_be_had(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge:
        async with edge.http.get("/api/events/schema") as response:
            whole = await response.json()
        async with edge.http.get("/api/events/schema/job.completed") as response:
            one = await response.json()
        async with edge.http.get("/api/events/schema/job.exploded") as response:
            error = (await response.json())["error"]

    assert one["properties"] == whole["$defs"]["job.completed"]["properties"]
    assert (response.status, error["code"], error["param"]) == (404, "event_not_found", "type")
