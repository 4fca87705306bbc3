"""The jobs API, before actors that answer from a dictionary."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.engines.echo import EchoEngine
from bus.client import Bus
from bus.errors import RefusedError
from bus.messages.history import HistoryQuery, HistoryReply, JobRow
from bus.messages.jobs import CancelJob, GetJob, JobReply, SubmitJob
from bus.serve import Caller, Endpoint
from bus.subjects import CANCEL_JOB, GET_JOB, LIST_HISTORY, SUBMIT_JOB
from tests.support.responses import responding
from tests.support.stack import CHAT_MODEL, living, stack

NOON = datetime(2025, 11, 17, 12, 0, 0, tzinfo=UTC)
JOB = JobReply(
    job_id="job-1",
    status="completed",
    model=CHAT_MODEL,
    operation="chat",
    priority="normal",
    created_at=NOON,
    started_at=NOON,
    completed_at=NOON,
    attempts=1,
    metadata={"user_id": "user123"},
)
BODY = {
    "model_id": CHAT_MODEL,
    "operation": "chat",
    "input": {"messages": [{"role": "user", "content": "Hello"}]},
    "priority": "high",
    "metadata": {"user_id": "user123"},
    "callback_url": None,
}


class _Jobs:
    """Answers with `job` for its id, and keeps what it was asked."""

    def __init__(self, job: JobReply) -> None:
        self._job = job
        self.submitted: list[SubmitJob] = []
        self.queries: list[HistoryQuery] = []

    async def submit(self, request: SubmitJob, _: Caller) -> AsyncGenerator[JobReply]:
        self.submitted.append(request)
        yield JobReply(
            job_id=request.job_id or "job-new",
            status="queued",
            model=request.model,
            operation=request.operation,
            priority=request.priority,
            created_at=NOON,
            estimated_completion_ms=500,
        )

    async def get(self, request: GetJob | CancelJob, _: Caller) -> AsyncGenerator[JobReply]:
        if request.job_id != self._job.job_id:
            raise RefusedError("job_not_found", f"There is no job {request.job_id}.")
        yield self._job

    async def history(self, request: HistoryQuery, _: Caller) -> AsyncGenerator[HistoryReply]:
        self.queries.append(request)
        row = JobRow(
            job_id="job-1",
            status="queued",
            model=CHAT_MODEL,
            operation="chat",
            priority="low",
            created_at=NOON,
            attempts=0,
            started_at=None,
            completed_at=None,
            error=None,
            reason=None,
            metadata={},
        )
        yield HistoryReply(jobs=(row,), total=17, as_of=3, next_cursor="behind-job-1")


@asynccontextmanager
async def _jobs(bus: Bus, job: JobReply = JOB) -> AsyncGenerator[_Jobs]:
    jobs = _Jobs(job)
    endpoints = (
        Endpoint(SUBMIT_JOB(), jobs.submit),
        Endpoint(GET_JOB(), jobs.get),
        Endpoint(CANCEL_JOB(), jobs.get),
        Endpoint(LIST_HISTORY(), jobs.history),
    )
    async with living(bus, "jobs", *endpoints):
        yield jobs


@pytest.mark.parametrize("prefix", ["/api/mcp/jobs", "/v1/jobs"])
async def test_job_is_submitted_as_the_seeds_say(nats_url: str, tmp_path: Path, prefix: str) -> None:
    async with stack(nats_url, tmp_path) as edge, _jobs(edge.bus) as jobs:
        async with edge.http.post(prefix, json=BODY) as response:
            answer = await response.json()

        assert response.status == 200
        assert answer == {
            "job_id": "job-new",
            "status": "queued",
            "created_at": "2025-11-17T12:00:00Z",
            "estimated_completion_ms": 500,
        }
        [message] = jobs.submitted
        assert msgspec.json.decode(message.input) == BODY["input"]
        assert (message.model, message.priority, message.metadata) == (CHAT_MODEL, "high", {"user_id": "user123"})


async def test_same_idempotency_key_of_the_same_client_is_the_same_job(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, _jobs(edge.bus):
        ids = []
        for key, client in (("one", "a"), ("one", "a"), ("two", "a"), ("one", "b"), ("one", "")):
            headers = {"Idempotency-Key": key} | ({"Authorization": f"Bearer {client}"} if client else {})
            async with edge.http.post("/v1/jobs", json=BODY, headers=headers) as response:
                ids.append((await response.json())["job_id"])

        assert ids[0] == ids[1]
        assert len(set(ids)) == 4


async def test_idempotency_key_is_refused_for_another_job(nats_url: str, tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "one"}
    async with responding(nats_url, tmp_path, EchoEngine()) as edge:
        async with edge.http.post("/v1/jobs", json=BODY, headers=headers) as first:
            assert first.status == 200
        other = BODY | {"input": {"messages": [{"role": "user", "content": "Something else"}]}}
        async with edge.http.post("/v1/jobs", json=other, headers=headers) as second:
            answer = await second.json()

    assert second.status == 409
    assert answer["error"]["code"] == "conflict"
    assert answer["error"]["param"] == "Idempotency-Key"


async def test_job_is_told_with_its_result(nats_url: str, tmp_path: Path) -> None:
    job = msgspec.structs.replace(JOB, result=msgspec.Raw(b'{"content":"Hello!"}'))
    async with stack(nats_url, tmp_path) as edge, _jobs(edge.bus, job):
        async with edge.http.get("/api/mcp/jobs/job-1") as response:
            answer = await response.json()

        assert answer == {
            "job_id": "job-1",
            "status": "completed",
            "model_id": CHAT_MODEL,
            "operation": "chat",
            "priority": "normal",
            "created_at": "2025-11-17T12:00:00Z",
            "started_at": "2025-11-17T12:00:00Z",
            "completed_at": "2025-11-17T12:00:00Z",
            "attempts": 1,
            "metadata": {"user_id": "user123"},
            "result": {"content": "Hello!"},
        }


async def test_result_too_large_for_a_message_is_read_from_its_blob(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge:
        name = await edge.blobs.put(b'{"content":"' + b"x" * 2_000_000 + b'"}')
        job = msgspec.structs.replace(JOB, result_blob=name)
        async with _jobs(edge.bus, job), edge.http.get("/v1/jobs/job-1") as response:
            answer: dict[str, Any] = await response.json()

        assert len(answer["result"]["content"]) == 2_000_000


async def test_mistake_of_the_edge_is_told_without_its_insides(nats_url: str, tmp_path: Path) -> None:
    job = msgspec.structs.replace(JOB, result_blob="not the name of a blob")
    async with stack(nats_url, tmp_path) as edge, _jobs(edge.bus, job):
        async with edge.http.get("/v1/jobs/job-1", headers={"x-request-id": "mine"}) as response:
            error = (await response.json())["error"]

        assert response.status == 500
        assert response.headers["x-request-id"] == "mine"
        assert error == {
            "message": "The server made a mistake on this request; its log says which.",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }


@pytest.mark.parametrize("job_id", ["job-none", "nonsense", "job-%2e%2e%2f", "x" * 4000])
async def test_unknown_job_is_not_found(nats_url: str, tmp_path: Path, job_id: str) -> None:
    async with stack(nats_url, tmp_path) as edge, _jobs(edge.bus):
        async with edge.http.get(f"/v1/jobs/{job_id}") as got, edge.http.delete(f"/v1/jobs/{job_id}") as cancelled:
            codes = {(await answer.json())["error"]["code"] for answer in (got, cancelled)}

        assert (got.status, cancelled.status) == (404, 404)
        assert codes == {"job_not_found"}


async def test_jobs_are_listed_by_status_and_model(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, _jobs(edge.bus) as jobs:
        query = {"status": "queued", "model_id": CHAT_MODEL, "limit": "5", "offset": "10"}
        async with edge.http.get("/api/mcp/jobs", params=query) as response:
            answer = await response.json()

        assert jobs.queries == [HistoryQuery(status="queued", model=CHAT_MODEL, limit=5, offset=10)]
        assert (answer["total"], answer["limit"], answer["offset"]) == (17, 5, 10)
        assert answer["next_cursor"] == "behind-job-1"
        [job] = answer["jobs"]
        assert job["created_at"] == "2025-11-17T12:00:00Z"
        assert "completed_at" not in job


async def test_jobs_are_listed_by_time_and_metadata_in_an_order(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, _jobs(edge.bus) as jobs:
        query = {
            "created_after": "2025-11-17T12:00:00Z",
            "created_before": "2025-11-17T14:00:00+02:00",
            "metadata.user_id": "user123",
            "metadata.a.b": "c",
            "sort": "completed_at",
            "cursor": "behind-job-0",
        }
        async with edge.http.get("/v1/jobs", params=query) as response:
            assert response.status == 200

        assert jobs.queries == [
            HistoryQuery(
                created_after=NOON,
                created_before=NOON,
                metadata={"user_id": "user123", "a.b": "c"},
                sort="completed_at",
                cursor="behind-job-0",
            )
        ]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=abc", "limit"),
        ("limit=0", "limit"),
        ("offset=-1", "offset"),
        # DuckDB takes no more, and the historian would end.
        (f"offset={2**63}", "offset"),
        ("status=done", "status"),
        ("x=1", "x"),
        ("sort=model", "sort"),
        ("created_after=yesterday", "created_after"),
        ("created_before=2025-11-17T12:00:00", "created_before"),
        # In UTC they are in the year 10000, and before the year 1.
        ("created_after=9999-12-31T23:59:59-23:00", "created_after"),
        ("created_before=0001-01-01T00:00:00%2B23:00", "created_before"),
        ("metadata=x", "metadata"),
        ("status.x=queued", "status"),
    ],
)
async def test_query_that_cannot_be_understood_is_refused(
    nats_url: str, tmp_path: Path, query: str, param: str
) -> None:
    async with stack(nats_url, tmp_path) as edge, _jobs(edge.bus) as jobs:
        async with edge.http.get(f"/v1/jobs?{query}") as response:
            error = (await response.json())["error"]

        assert (response.status, error["param"]) == (400, param)
        assert jobs.queries == []


async def test_cancelled_job_tells_when(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, _jobs(edge.bus, msgspec.structs.replace(JOB, status="cancelled")):
        async with edge.http.delete("/api/mcp/jobs/job-1") as response:
            answer = await response.json()

        assert answer == {"job_id": "job-1", "status": "cancelled", "cancelled_at": "2025-11-17T12:00:00Z"}
