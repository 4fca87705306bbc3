"""The job: what its events add up to, and which event may come next.

    queued ──> processing ──> completed
      ^            ├────────> failed
      └── retry ───┘
    any of the two that are not final ──> cancelled, failed

`cancel_requested` is a flag that leaves the status alone. A final status stays: later events are ignored.
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
    JobStarted,
    Priority,
    Unknown,
)

JobStatus = Literal["queued", "processing", "completed", "failed", "cancelled"]

_FINAL = frozenset(("completed", "failed", "cancelled"))


class Job(Struct, frozen=True, kw_only=True):
    """One job. `completed_at` is when it reached its final status, whichever that is."""

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
    reason: str | None = None

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
        return _queued(event) if isinstance(event, JobQueued) else None
    if job.is_final:
        return job
    match event:
        case JobQueued():
            return job
        case JobStarted():
            return replace(job, status="processing", attempts=event.attempt, started_at=job.started_at or event.at)
        case JobRetryScheduled():
            return replace(job, status="queued", error=event.error)
        case JobCancelRequested():
            return replace(job, cancel_requested=True)
        case JobCompleted():
            return _completed(job, event)
        case JobFailed():
            return replace(job, status="failed", completed_at=event.at, error=event.error, reason=event.reason)
        case JobCancelled():
            return replace(job, status="cancelled", completed_at=event.at)
        case _:
            assert_never(event)


def decide_attempt(
    job: Job, stamp: Stamp, *, actor: str, max_attempts: int
) -> JobStarted | JobFailed | JobCancelled | None:
    """Return what a worker that was handed `job` records before anything else.

    1. It is final: nothing; the delivery is a left-over.
    2. Somebody wants it to end: it is cancelled.
    3. All attempts were used: it fails.
    4. Else the next attempt starts.
    """
    if job.is_final:  # 1
        return None
    if job.cancel_requested:  # 2
        return JobCancelled(id=stamp.id, at=stamp.at, job_id=job.job_id)
    if job.attempts >= max_attempts:  # 3
        return JobFailed(
            id=stamp.id,
            at=stamp.at,
            job_id=job.job_id,
            reason="max_attempts",
            error=f"Gave up after {job.attempts} attempts. Last error: {job.error or 'the worker died'}",
        )
    return JobStarted(id=stamp.id, at=stamp.at, job_id=job.job_id, actor=actor, attempt=job.attempts + 1)  # 4


def decide_cancel(job: Job, stamp: Stamp) -> JobCancelRequested | None:
    """Return the event that asks for the end of `job`; None when it has ended or was asked already."""
    if job.is_final or job.cancel_requested:
        return None
    return JobCancelRequested(id=stamp.id, at=stamp.at, job_id=job.job_id)


def _queued(event: JobQueued) -> Job:
    return Job(
        job_id=event.job_id,
        status="queued",
        model=event.model,
        operation=event.operation,
        priority=event.priority,
        created_at=event.at,
        input_blob=event.input_blob,
        metadata=event.metadata,
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
