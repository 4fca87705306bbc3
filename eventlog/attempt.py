"""The attempts of jobs: what became of each try."""

from datetime import datetime
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from eventlog.events import (
    JobCancelled,
    JobCompleted,
    JobEvent,
    JobFailed,
    JobRetryScheduled,
    JobStarted,
)
from eventlog.job import Job

# `lost`: another attempt began before this one had said how it went.
AttemptOutcome = Literal["completed", "failed", "cancelled", "retried", "lost"]


class AttemptEnd(Struct, frozen=True, kw_only=True):
    """How an attempt went."""

    ended_at: datetime
    outcome: AttemptOutcome
    error: str | None = None


class Attempt(Struct, frozen=True, kw_only=True):
    """One try of a job; `attempt` counts from 1."""

    job_id: str
    attempt: int
    actor: str
    revision: str | None
    started_at: datetime
    ended_at: datetime | None = None
    outcome: AttemptOutcome | None = None
    error: str | None = None


class Attempts:
    """The attempts that begin and end in some events: `begun` there, and `ended` there having begun before."""

    def __init__(self) -> None:
        self.begun: dict[tuple[str, int], Attempt] = {}
        self.ended: dict[tuple[str, int], AttemptEnd] = {}

    def take(self, job: Job | None, event: JobEvent) -> None:
        """Take `event` in; `job` is as it was before. Never raises."""
        if job is None or job.is_final:
            return
        match event:
            case JobStarted():
                self._begin(job, event)
            case JobRetryScheduled():
                self._end(job, event.attempt, AttemptEnd(ended_at=event.at, outcome="retried", error=event.error))
            case JobCompleted():
                self._end(job, event.attempt, AttemptEnd(ended_at=event.at, outcome="completed"))
            case JobFailed():
                self._end_running(job, AttemptEnd(ended_at=event.at, outcome="failed", error=event.error))
            case JobCancelled():
                self._end_running(job, AttemptEnd(ended_at=event.at, outcome="cancelled"))
            case _:
                pass

    def _begin(self, job: Job, event: JobStarted) -> None:
        self._end_running(job, AttemptEnd(ended_at=event.at, outcome="lost"))
        self.begun[job.job_id, event.attempt] = Attempt(
            job_id=job.job_id,
            attempt=event.attempt,
            actor=event.actor,
            revision=event.revision,
            started_at=event.at,
        )

    def _end_running(self, job: Job, end: AttemptEnd) -> None:
        if job.status == "processing":
            self._end(job, job.attempts, end)

    def _end(self, job: Job, attempt: int, end: AttemptEnd) -> None:
        key = (job.job_id, attempt)
        begun = self.begun.get(key)
        if begun is None:
            self.ended.setdefault(key, end)
        elif begun.outcome is None:
            self.begun[key] = replace(begun, ended_at=end.ended_at, outcome=end.outcome, error=end.error)
