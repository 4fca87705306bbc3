"""The job: what its events add up to, and which event may come next.

    queued ──> processing ──> completed
      ^            ├────────> failed
      └── retry ───┘
    any of the two that are not final ──> cancelled, failed

A scheduled job counts as queued, and is in the queue from `queued_at` on. `cancel_requested` is a flag that leaves the
status alone. A final status stays: later events are ignored.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from eventlog.events import (
    Event,
    JobCancelled,
    JobCancelRequested,
    JobCompleted,
    JobEvent,
    JobFailed,
    JobQueued,
    JobRetryScheduled,
    JobScheduled,
    JobStarted,
    Priority,
    Unknown,
)

JobStatus = Literal["queued", "processing", "completed", "failed", "cancelled"]

_FINAL = frozenset(("completed", "failed", "cancelled"))


class Job(Struct, frozen=True, kw_only=True):
    """One job. `completed_at` is when it reached its final status, whichever that is.

    `revision` is that of the model at the last attempt; the others are as in the events.
    """

    job_id: str
    status: JobStatus
    model: str
    operation: str
    priority: Priority
    created_at: datetime
    input_blob: str
    metadata: dict[str, Any] = {}
    attempts: int = 0
    cancel_requested: bool = False
    started_at: datetime | None = None
    completed_at: datetime | None = None
    result_blob: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    reason: str | None = None
    queued_at: datetime | None = None
    run_at: datetime | None = None
    expires_at: datetime | None = None
    run_timeout: float | None = None
    max_attempts: int | None = None
    seed: int | None = None
    revision: str | None = None
    callback_url: str | None = None
    key: str | None = None
    replay_of: str | None = None
    batch_id: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.status in _FINAL


class Stamp(Struct, frozen=True):
    """The id and the time of an event that is about to be decided."""

    id: str
    at: datetime


def fold(events: Iterable[Event | Unknown]) -> Job | None:
    """Return what the `events` of one job, oldest first, add up to."""
    job: Job | None = None
    for event in events:
        if isinstance(event, JobEvent):
            job = apply(job, event)
    return job


def apply(job: Job | None, event: JobEvent) -> Job | None:  # noqa: PLR0911 - one per event
    """Return `job` after `event`. Never raises: the fact has happened."""
    if job is None:
        return _accepted(event) if isinstance(event, JobQueued | JobScheduled) else None
    if job.is_final:
        return job
    match event:
        case JobScheduled() | JobQueued():
            return replace(job, queued_at=job.queued_at or event.at) if isinstance(event, JobQueued) else job
        case JobStarted():
            return _started(job, event)
        case JobRetryScheduled():
            return replace(job, status="queued", error=event.error)
        case JobCancelRequested():
            return replace(job, cancel_requested=True)
        case JobCompleted():
            return _completed(job, event)
        case JobFailed():
            return replace(
                job,
                status="failed",
                completed_at=event.at,
                error=event.error,
                error_code=event.error_code,
                error_param=event.error_param,
                reason=event.reason,
            )
        case JobCancelled():
            return replace(job, status="cancelled", completed_at=event.at)
        case _:
            assert_never(event)


def decide_attempt(
    job: Job, stamp: Stamp, *, actor: str, max_attempts: int, revision: str | None = None
) -> JobStarted | JobFailed | JobCancelled | None:
    """Return what a worker that was handed `job` records before anything else.

    1. It is final: nothing; the delivery is a left-over.
    2. Somebody wants it to end: it is cancelled.
    3. It may not begin any more: it fails.
    4. All attempts were used, its own number if it has one: it fails.
    5. Else the next attempt starts.
    """
    if job.is_final:  # 1
        return None
    if job.cancel_requested:  # 2
        return JobCancelled(id=stamp.id, at=stamp.at, job_id=job.job_id)
    if job.expires_at is not None and stamp.at >= job.expires_at:  # 3
        return _expired(job, stamp)
    if job.attempts >= (job.max_attempts or max_attempts):  # 4
        return JobFailed(
            id=stamp.id,
            at=stamp.at,
            job_id=job.job_id,
            reason="max_attempts",
            error=f"Gave up after {job.attempts} attempts. Last error: {job.error or 'the worker died'}",
        )
    return JobStarted(  # 5
        id=stamp.id, at=stamp.at, job_id=job.job_id, actor=actor, attempt=job.attempts + 1, revision=revision
    )


def decide_expiry(job: Job, stamp: Stamp, *, lost: bool = False) -> JobFailed | JobCancelled | None:
    """Return the event that ends `job` when its time is over, and no attempt runs or it is `lost`; None else.

    One that somebody wants to end is cancelled: nobody came to do so.
    """
    is_over = job.expires_at is not None and stamp.at >= job.expires_at
    if job.is_final or not is_over or (job.status == "processing" and not lost):
        return None
    if job.cancel_requested:
        return JobCancelled(id=stamp.id, at=stamp.at, job_id=job.job_id)
    return _expired(job, stamp)


def decide_due(job: Job, stamp: Stamp) -> JobQueued | None:
    """Return the event that queues a scheduled `job`; None before its time, and once it was queued or has ended."""
    if job.is_final or job.queued_at is not None or job.run_at is None or stamp.at < job.run_at:
        return None
    return JobQueued(
        id=stamp.id,
        at=stamp.at,
        job_id=job.job_id,
        model=job.model,
        operation=job.operation,
        priority=job.priority,
        input_blob=job.input_blob,
        metadata=job.metadata,
        expires_at=job.expires_at,
        run_timeout=job.run_timeout,
        max_attempts=job.max_attempts,
        seed=job.seed,
        callback_url=job.callback_url,
        key=job.key,
        replay_of=job.replay_of,
        batch_id=job.batch_id,
    )


def decide_cancel(job: Job, stamp: Stamp) -> JobCancelRequested | None:
    """Return the event that asks for the end of `job`; None when it has ended or was asked already."""
    if job.is_final or job.cancel_requested:
        return None
    return JobCancelRequested(id=stamp.id, at=stamp.at, job_id=job.job_id)


def _expired(job: Job, stamp: Stamp) -> JobFailed:
    error = f"No attempt had begun by {job.expires_at:%Y-%m-%dT%H:%M:%SZ}."
    if job.attempts:
        error = f"None of {job.attempts} attempts succeeded by {job.expires_at:%Y-%m-%dT%H:%M:%SZ}."
    return JobFailed(id=stamp.id, at=stamp.at, job_id=job.job_id, reason="expired", error=error)


def _accepted(event: JobQueued | JobScheduled) -> Job:
    return Job(
        job_id=event.job_id,
        status="queued",
        model=event.model,
        operation=event.operation,
        priority=event.priority,
        created_at=event.at,
        input_blob=event.input_blob,
        metadata=event.metadata,
        queued_at=event.at if isinstance(event, JobQueued) else None,
        run_at=event.run_at if isinstance(event, JobScheduled) else None,
        expires_at=event.expires_at,
        run_timeout=event.run_timeout,
        max_attempts=event.max_attempts,
        seed=event.seed,
        callback_url=event.callback_url,
        key=event.key,
        replay_of=event.replay_of,
        batch_id=event.batch_id,
    )


def _started(job: Job, event: JobStarted) -> Job:
    return replace(
        job,
        status="processing",
        attempts=max(job.attempts, event.attempt),
        started_at=job.started_at or event.at,
        revision=event.revision,
    )


def _completed(job: Job, event: JobCompleted) -> Job:
    return replace(
        job,
        status="completed",
        completed_at=event.at,
        result_blob=event.result_blob,
        prompt_tokens=event.prompt_tokens,
        completion_tokens=event.completion_tokens,
        error=None,
    )
