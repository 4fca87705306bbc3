"""Jobs through HTTP: with the jobs actor, a worker and an engine behind it."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from actors.engines.echo import EchoEngine
from bus.events import EventLog
from bus.messages.jobs import JobProgress
from bus.progress import say_progress
from tests.support import make
from tests.support.nats import until_it
from tests.support.responses import responding
from tests.support.sse import Sent, next_sent, rest
from tests.support.stack import CHAT_MODEL, GatedEngine, Stack

INPUT = {"messages": [{"role": "user", "content": "Hello"}]}
BODY = {"model_id": CHAT_MODEL, "operation": "chat", "input": INPUT}
STREAM = {"Accept": "text/event-stream"}
WHOLE = ["job.queued", "job.started", "job.completed"]


async def post(edge: Stack, path: str = "/v1/jobs", **request: Any) -> dict[str, Any]:
    async with edge.http.post(path, **({"json": BODY} | request)) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def get(edge: Stack, path: str) -> dict[str, Any]:
    async with edge.http.get(path) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def ended(edge: Stack, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = {}

    async def has_ended() -> bool:
        job.update(await get(edge, f"/v1/jobs/{job_id}"))
        return job["status"] in {"completed", "failed", "cancelled"}

    await until_it(has_ended)
    return job


async def test_hundred_submits_with_one_key_at_once_are_one_job(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        headers = {"Idempotency-Key": "one"}
        answers = await asyncio.gather(*(post(edge, headers=headers) for _ in range(100)))
        job_id = answers[0]["job_id"]
        await ended(edge, job_id)
        late = await post(edge, headers=headers)
        story = await get(edge, f"/v1/jobs/{job_id}/events")

    assert {answer["job_id"] for answer in answers} == {job_id}
    assert (late["job_id"], late["status"]) == (job_id, "completed")
    assert [event["type"] for event in story["events"]] == WHOLE


async def test_all_that_was_said_of_a_job_is_told_of_it(nats_url: str, tmp_path: Path) -> None:
    run_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    said = {
        "run_at": run_at,
        "run_timeout": 9.5,
        "max_attempts": 2,
        "callback_url": "https://a.example/b",
        "priority": "low",
    }
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        submitted = await post(edge, json=BODY | said, headers={"Authorization": "Bearer secret"})
        job = await get(edge, f"/api/mcp/jobs/{submitted['job_id']}")
        story = await get(edge, f"/api/mcp/jobs/{submitted['job_id']}/events")

    assert (submitted["status"], submitted["run_at"], submitted["estimated_completion_ms"]) == ("queued", run_at, None)
    assert {name: job[name] for name in said} == said
    assert (job["estimated_completion_ms"], job["attempts"], job["metadata"]) == (None, 0, {})
    assert job["expires_at"] > run_at
    assert isinstance(job["seed"], int)
    [event] = story["events"]
    assert (event["type"], event["seq"]) == ("job.scheduled", 1)
    assert event["key"].startswith("key-")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"callback_url": "ftp://a"}, "callback_url"),
        ({"run_at": "2999-01-01T00:00:00Z"}, "run_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"operation": "embed"}, "operation"),
        ({"operation": "detokenize"}, "input.messages"),
    ],
)
async def test_job_that_cannot_be_is_refused_by_its_field(
    nats_url: str, tmp_path: Path, more: dict[str, Any], param: str
) -> None:
    async with (
        responding(nats_url, tmp_path, EchoEngine()) as edge,
        edge.http.post("/v1/jobs", json=BODY | more) as response,
    ):
        error = (await response.json())["error"]

    assert (response.status, error["param"]) == (400, param)


async def test_events_of_a_job_are_streamed_while_they_happen(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with responding(nats_url, tmp_path, engine) as edge:
        job_id = (await post(edge))["job_id"]
        async with edge.http.get(f"/api/mcp/jobs/{job_id}/events", headers=STREAM) as response:
            before = [await next_sent(response) for _ in range(2)]
            engine.gate.set()
            after = await rest(response)
        whole = await get(edge, f"/v1/jobs/{job_id}/events")

    assert response.headers["Content-Type"] == "text/event-stream"
    sent = [each for each in (*before, *after) if each is not None]
    assert [each.event for each in sent] == WHOLE
    assert [each.data for each in sent] == whole["events"]
    assert [int(each.id) for each in sent] == [event["seq"] for event in whole["events"]]


async def test_progress_of_a_job_is_streamed_between_its_events(nats_url: str, tmp_path: Path) -> None:
    engine = GatedEngine()
    async with responding(nats_url, tmp_path, engine) as edge:
        job_id = (await post(edge))["job_id"]
        async with edge.http.get(f"/v1/jobs/{job_id}/events", headers=STREAM) as response:
            before = [await next_sent(response) for _ in range(2)]
            await say_progress(edge.bus, job_id, JobProgress(done=1, total=3, message="a.txt: stored"))
            told = await next_sent(response)
            engine.gate.set()
            after = await rest(response)

    assert told == Sent("", "progress", {"done": 1, "total": 3, "message": "a.txt: stored"})
    assert [each.event for each in (*before, *after) if each is not None] == WHOLE


async def test_stream_of_events_goes_on_behind_the_last_one_seen(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        job_id = (await post(edge))["job_id"]
        await ended(edge, job_id)
        path = f"/v1/jobs/{job_id}/events"
        told: list[list[Sent]] = []
        for seen in ("0", "1", "2"):
            async with edge.http.get(path, headers=STREAM | {"Last-Event-ID": seen}) as response:
                told.append(await rest(response))
        async with edge.http.get(path, headers=STREAM | {"Last-Event-ID": told[0][-1].id}) as done:
            assert await done.read() == b""
        wrong: list[tuple[int, str]] = []
        for seen in ("x", "9" * 5000):
            async with edge.http.get(path, headers=STREAM | {"Last-Event-ID": seen}) as response:
                wrong.append((response.status, (await response.json())["error"]["param"]))

    assert [[each.event for each in story] for story in told] == [WHOLE, WHOLE[1:], WHOLE[2:]]
    assert done.status == 204
    assert wrong == [(400, "Last-Event-ID")] * 2


async def test_job_without_events_is_not_found(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        for headers in ({}, STREAM):
            async with edge.http.get("/v1/jobs/job-none/events", headers=headers) as response:
                error = (await response.json())["error"]

            assert (response.status, error["code"]) == (404, "job_not_found")


async def test_events_that_this_version_does_not_know_are_told_too(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        nc = edge.bus.nc
        await nc.request("fusion.event.job.job-odd.dreamt", b'{"type":"job.dreamt","of":["sheep"]}')
        await nc.request("fusion.event.job.job-odd.broken", b"\xff")
        await EventLog(edge.bus).record(make.job_queued(job_id="job-odd", model="local/none"))
        story = await get(edge, "/v1/jobs/job-odd/events")

    assert [event["type"] for event in story["events"]] == ["job.dreamt", "job.queued"]
    assert story["events"][0] == {"seq": 1, "type": "job.dreamt", "of": ["sheep"]}


async def test_job_is_replayed_and_compared_with_the_first(nats_url: str, tmp_path: Path) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        first = (await post(edge))["job_id"]
        await ended(edge, first)
        again = await post(edge, f"/api/mcp/jobs/{first}/replay", json=None)
        job = await ended(edge, again["job_id"])

    assert (again["status"], again["replay_of"]) == ("queued", first)
    assert job["comparison"] == {"replay_of": first, "is_same": True, "differences": []}


@pytest.mark.parametrize(
    "url", ["https://169.254.169.254/", "http://example.com/", "https://u:p@example.com/", "ftp://a"]
)
async def test_callback_to_an_address_that_webhooks_are_not_sent_to_is_refused(
    nats_url: str, tmp_path: Path, url: str
) -> None:
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        async with edge.http.post("/v1/jobs", json=BODY | {"callback_url": url}) as response:
            error = (await response.json())["error"]

    assert (response.status, error["code"], error["param"]) == (400, "invalid_request", "callback_url")
