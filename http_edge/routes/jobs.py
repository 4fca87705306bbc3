"""/api/mcp/jobs, and the same under /v1/jobs: work that is accepted now and done later."""

import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Raw, Struct

from bus.errors import RefusedError
from bus.messages.history import HistoryQuery, JobRow, Offset
from bus.messages.jobs import CancelJob, GetJob, JobReply, Operation, SubmitJob
from bus.subjects import CANCEL_JOB, GET_JOB, LIST_HISTORY, SUBMIT_JOB
from eventlog.events import Priority
from eventlog.job import JobStatus
from http_edge.context import BLOBS, BUS
from http_edge.generation import refuse_unsupported
from http_edge.wire import ModelName, json_response, read_body, read_query

_JOB_ID = re.compile(r"job-[0-9A-Za-z_-]{1,64}")

# There are no webhooks yet.
NEUTRAL: dict[str, tuple[object, ...]] = {"callback_url": ()}


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client submits. `input` is the request of the operation as its actor takes it, not OpenAI's."""

    model_id: ModelName
    operation: Operation
    input: dict[str, Raw]
    priority: Priority | None = None
    metadata: dict[str, Any] | None = None
    callback_url: Any = None


class Page(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of the history a client wants."""

    status: JobStatus | None = None
    model_id: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    offset: Offset = 0


class Submitted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that was accepted."""

    job_id: str
    status: JobStatus
    created_at: datetime
    estimated_completion_ms: int | None = None


class JobView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job as clients see it; what has not happened is left out."""

    job_id: str
    status: JobStatus
    model_id: str
    operation: str
    priority: Priority
    created_at: datetime
    attempts: int
    metadata: dict[str, Any]
    started_at: datetime | None = None
    completed_at: datetime | None = None
    result: Raw | None = None
    error: str | None = None
    reason: str | None = None


class Cancelled(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that was asked to end. A running one has no `cancelled_at` until it has ended."""

    job_id: str
    status: JobStatus
    cancelled_at: datetime | None = None


class JobPage(Struct, frozen=True, kw_only=True):
    """A part of the history, newest first."""

    jobs: tuple[JobView, ...]
    total: int
    limit: int
    offset: int


async def submit(request: web.Request) -> web.StreamResponse:
    """Accept a job. The same `Idempotency-Key` gives the same job, whenever it is sent again."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    key = request.headers.get("Idempotency-Key")
    message = SubmitJob(
        model=body.model_id,
        operation=body.operation,
        input=Raw(msgspec.json.encode(body.input)),
        priority=body.priority or "normal",
        metadata=body.metadata or {},
        job_id=_job_id_of(key) if key else None,
    )
    try:
        job = await request.app[BUS].ask(SUBMIT_JOB(), message)
    except RefusedError as error:
        if error.code != "conflict":
            raise
        reason = "This 'Idempotency-Key' was used before with another input, operation or model."
        raise RefusedError("conflict", reason, param="Idempotency-Key") from error
    return json_response(
        Submitted(
            job_id=job.job_id,
            status=job.status,
            created_at=_utc(job.created_at),
            estimated_completion_ms=job.estimated_completion_ms,
        )
    )


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Tell how a job stands, with its result when it is done and still kept."""
    job = await request.app[BUS].ask(GET_JOB(), GetJob(job_id=_job_id(request)))
    result = None if job.result is UNSET or bytes(job.result) == b"null" else job.result
    if result is None and job.result_blob is not None:
        content = await request.app[BLOBS].get(job.result_blob)
        result = None if content is None else Raw(content)
    return json_response(_view(job, result))


async def list_page(request: web.Request) -> web.StreamResponse:
    """List jobs, newest first."""
    page = read_query(request, Page)
    query = HistoryQuery(status=page.status, model=page.model_id, limit=page.limit, offset=page.offset)
    reply = await request.app[BUS].ask(LIST_HISTORY(), query)
    jobs = tuple(_view(row) for row in reply.jobs)
    return json_response(JobPage(jobs=jobs, total=reply.total, limit=page.limit, offset=page.offset))


async def cancel(request: web.Request) -> web.StreamResponse:
    """End a job, queued or running."""
    job = await request.app[BUS].ask(CANCEL_JOB(), CancelJob(job_id=_job_id(request)))
    at = job.completed_at if job.status == "cancelled" else None
    return json_response(Cancelled(job_id=job.job_id, status=job.status, cancelled_at=_utc_or_none(at)))


def _job_id_of(key: str) -> str:
    # Bytes of a header that are no UTF-8 come as surrogates.
    return f"job-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:32]}"


def _job_id(request: web.Request) -> str:
    job_id = request.match_info["job_id"]
    if not _JOB_ID.fullmatch(job_id):
        raise RefusedError("job_not_found", f"There is no job {job_id[:80]!r}.", param="job_id")
    return job_id


def _view(job: JobReply | JobRow, result: Raw | None = None) -> JobView:
    return JobView(
        job_id=job.job_id,
        status=job.status,
        model_id=job.model,
        operation=job.operation,
        priority=job.priority,
        created_at=_utc(job.created_at),
        attempts=job.attempts,
        metadata=job.metadata,
        started_at=_utc_or_none(job.started_at),
        completed_at=_utc_or_none(job.completed_at),
        result=result,
        error=job.error,
        reason=job.reason,
    )


def _utc(at: datetime) -> datetime:
    # msgspec writes UTC, and only UTC, with a Z.
    return at.astimezone(UTC)


def _utc_or_none(at: datetime | None) -> datetime | None:
    return None if at is None else _utc(at)


_body = msgspec.json.Decoder(Body)

ROUTES = [
    route
    for prefix in ("/api/mcp/jobs", "/v1/jobs")
    for route in (
        web.post(prefix, submit),
        web.get(prefix, list_page),
        web.get(prefix + "/{job_id}", retrieve),
        web.delete(prefix + "/{job_id}", cancel),
    )
]
