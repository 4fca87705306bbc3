"""/api/mcp/jobs, and the same under /v1/jobs: work that is accepted now and done later."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from bus.errors import RefusedError
from bus.messages.history import HistoryQuery, JobRow, Offset
from bus.messages.jobs import (
    CallbackUrl,
    CancelJob,
    Comparison,
    GetJob,
    JobProgress,
    JobReply,
    MaxAttempts,
    Moment,
    Operation,
    ReplayJob,
    RunTimeout,
    SubmitJob,
)
from bus.subjects import CANCEL_JOB, GET_JOB, LIST_HISTORY, REPLAY_JOB
from eventlog.events import Priority
from eventlog.history_schema import Sort
from eventlog.job import JobStatus
from http_edge.context import BUS
from http_edge.keys import fingerprint
from http_edge.submitting import ENDED, job_id_of, result_of, submitted
from http_edge.wire import ModelName, json_response, read_body, read_optional_body, read_query

PREFIXES = ("/api/mcp/jobs", "/v1/jobs")

_JOB_ID = re.compile(r"job-[0-9A-Za-z_-]{1,64}")

NEUTRAL: dict[str, tuple[object, ...]] = {}


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client submits. `input` is the request of the operation as its actor takes it, not OpenAI's."""

    model_id: ModelName
    operation: Operation
    input: dict[str, Raw]
    priority: Priority | None = None
    metadata: dict[str, Any] | None = None
    callback_url: CallbackUrl | None = None
    run_at: Moment | None = None
    expires_at: Moment | None = None
    run_timeout: RunTimeout | None = None
    max_attempts: MaxAttempts | None = None


class ReplayBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing: a job is run again as it was."""


class Page(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of the history a client wants. A job has all members that `metadata` names."""

    status: JobStatus | None = None
    model_id: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    offset: Offset = 0
    created_after: Moment | None = None
    created_before: Moment | None = None
    metadata: dict[str, str] = {}
    sort: Sort = "-created_at"
    cursor: str | None = None


class Submitted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that was accepted. `position` is its number in the queue, `replay_of` the job that it repeats."""

    job_id: str
    status: JobStatus
    created_at: datetime
    estimated_completion_ms: int | None
    position: int | None = None
    run_at: datetime | None = None
    replay_of: str | None = None


class JobView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job as clients see it; what has not happened, or was not said, is left out.

    `estimated_completion_ms` is told of one job that has not ended; null when it is unknown.
    """

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
    error_code: str | None = None
    error_param: str | None = None
    reason: str | None = None
    position: int | None = None
    estimated_completion_ms: int | UnsetType | None = UNSET
    run_at: datetime | None = None
    expires_at: datetime | None = None
    run_timeout: float | None = None
    max_attempts: int | None = None
    callback_url: str | None = None
    cancel_requested: bool = False
    seed: int | None = None
    revision: str | None = None
    batch_id: str | None = None
    replay_of: str | None = None
    comparison: Comparison | None = None
    progress: JobProgress | None = None


class Cancelled(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that was asked to end. A running one has no `cancelled_at` until it has ended."""

    job_id: str
    status: JobStatus
    cancelled_at: datetime | None = None


class JobPage(Struct, frozen=True, kw_only=True):
    """A part of the history. `next_cursor` is for the page behind it; null when there is none."""

    jobs: tuple[JobView, ...]
    total: int
    limit: int
    offset: int
    next_cursor: str | None


async def submit(request: web.Request) -> web.StreamResponse:
    """Accept a job. The same `Idempotency-Key` of the same client gives the same job, whenever it is sent again."""
    body = await read_body(request, _body)
    message = SubmitJob(
        model=body.model_id,
        operation=body.operation,
        input=Raw(msgspec.json.encode(body.input)),
        priority=body.priority or "normal",
        metadata=body.metadata or {},
        job_id=job_id_of(request),
        run_at=body.run_at,
        expires_at=body.expires_at,
        run_timeout=body.run_timeout,
        max_attempts=body.max_attempts,
        callback_url=body.callback_url,
        key=fingerprint(request),
    )
    return json_response(accepted(await submitted(request, message)))


async def replay(request: web.Request) -> web.StreamResponse:
    """Run a job that has ended again, as a new one."""
    await read_optional_body(request, _replay_body)
    message = ReplayJob(job_id=path_job_id(request), key=fingerprint(request))
    return json_response(accepted(await request.app[BUS].ask(REPLAY_JOB(), message)))


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Tell how a job stands, with its result when it is done and still kept."""
    job = await request.app[BUS].ask(GET_JOB(), GetJob(job_id=path_job_id(request)))
    return json_response(_whole(job, await result_of(request, job)))


async def list_page(request: web.Request) -> web.StreamResponse:
    """List jobs, newest first if nothing else is said."""
    page = read_query(request, Page)
    query = HistoryQuery(
        status=page.status,
        model=page.model_id,
        limit=page.limit,
        offset=page.offset,
        created_after=_bound(page.created_after, "created_after"),
        created_before=_bound(page.created_before, "created_before"),
        metadata=page.metadata,
        sort=page.sort,
        cursor=page.cursor,
    )
    reply = await request.app[BUS].ask(LIST_HISTORY(), query)
    return json_response(
        JobPage(
            jobs=tuple(JobView(**_common(row)) for row in reply.jobs),
            total=reply.total,
            limit=page.limit,
            offset=page.offset,
            next_cursor=reply.next_cursor,
        )
    )


async def cancel(request: web.Request) -> web.StreamResponse:
    """End a job, queued or running."""
    job = await request.app[BUS].ask(CANCEL_JOB(), CancelJob(job_id=path_job_id(request)))
    at = job.completed_at if job.status == "cancelled" else None
    return json_response(Cancelled(job_id=job.job_id, status=job.status, cancelled_at=_utc_or_none(at)))


def path_job_id(request: web.Request) -> str:
    """Return the job that the path names. Raises `RefusedError` when no job can have that name."""
    job_id = request.match_info["job_id"]
    if not _JOB_ID.fullmatch(job_id):
        raise RefusedError("job_not_found", f"There is no job {job_id[:80]!r}.", param="job_id")
    return job_id


def accepted(job: JobReply) -> Submitted:
    """Return what is told of a job that was accepted."""
    return Submitted(
        job_id=job.job_id,
        status=job.status,
        created_at=_utc(job.created_at),
        estimated_completion_ms=job.estimated_completion_ms,
        position=job.position,
        run_at=_utc_or_none(job.run_at),
        replay_of=job.replay_of,
    )


def _whole(job: JobReply, result: Raw | None) -> JobView:
    return JobView(
        **_common(job),
        result=result,
        position=job.position,
        estimated_completion_ms=UNSET if job.status in ENDED else job.estimated_completion_ms,
        run_at=_utc_or_none(job.run_at),
        expires_at=_utc_or_none(job.expires_at),
        run_timeout=job.run_timeout,
        max_attempts=job.max_attempts,
        callback_url=job.callback_url,
        cancel_requested=job.cancel_requested,
        seed=job.seed,
        revision=job.revision,
        batch_id=job.batch_id,
        replay_of=job.replay_of,
        comparison=job.comparison,
        progress=job.progress,
    )


def _common(job: JobReply | JobRow) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "status": job.status,
        "model_id": job.model,
        "operation": job.operation,
        "priority": job.priority,
        "created_at": _utc(job.created_at),
        "attempts": job.attempts,
        "metadata": job.metadata,
        "started_at": _utc_or_none(job.started_at),
        "completed_at": _utc_or_none(job.completed_at),
        "error": job.error,
        "error_code": job.error_code,
        "error_param": job.error_param,
        "reason": job.reason,
    }


def _bound(at: datetime | None, param: str) -> datetime | None:
    try:
        return _utc_or_none(at)
    except OverflowError as error:
        raise RefusedError(
            "invalid_request", f"'{param}' is no time in UTC that can be written.", param=param
        ) from error


def _utc(at: datetime) -> datetime:
    # msgspec writes UTC, and only UTC, with a Z.
    return at.astimezone(UTC)


def _utc_or_none(at: datetime | None) -> datetime | None:
    return None if at is None else _utc(at)


_body = msgspec.json.Decoder(Body)
_replay_body = msgspec.json.Decoder(ReplayBody)

ROUTES = [
    route
    for prefix in PREFIXES
    for route in (
        web.post(prefix, submit),
        web.get(prefix, list_page),
        web.get(prefix + "/{job_id}", retrieve),
        web.delete(prefix + "/{job_id}", cancel),
        web.post(prefix + "/{job_id}/replay", replay),
    )
]
