"""What is said with the historian."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from eventlog.events import Priority
from eventlog.job import JobStatus

# DuckDB counts no further.
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]

# With `-`, the latest first.
Sort = Literal["created_at", "-created_at", "completed_at", "-completed_at"]


class HistoryQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tell which jobs there were, newest first, once the history has reached sequence `at_least` of the log.

    `metadata` names members that a job's has, with their values as text. `cursor` is what an earlier page said.
    """

    status: JobStatus | None = None
    model: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    offset: Offset = 0
    at_least: Annotated[int, Meta(ge=0)] = 0
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: dict[str, str] = {}
    sort: Sort = "-created_at"
    cursor: str | None = None


class JobRow(Struct, frozen=True, kw_only=True):
    """One job as the history holds it."""

    job_id: str
    status: JobStatus
    model: str
    operation: str
    priority: Priority
    created_at: datetime
    attempts: int
    started_at: datetime | None
    completed_at: datetime | None
    error: str | None
    reason: str | None
    metadata: dict[str, Any]


class HistoryReply(Struct, frozen=True, kw_only=True):
    """A page of jobs. `total` counts all that match; `as_of` is the log sequence the history has reached."""

    jobs: tuple[JobRow, ...]
    total: int
    as_of: int
    next_cursor: str | None = None


class JobQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell what happened to this job, once the history has reached sequence `at_least` of the log."""

    job_id: Annotated[str, Meta(min_length=1)]
    at_least: Annotated[int, Meta(ge=0)] = 0


class JobHistory(Struct, frozen=True, kw_only=True):
    """A job and its events as recorded, oldest first."""

    job: JobRow
    events: tuple[Raw, ...]
    as_of: int


class RebuildHistory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Throw the history away and project the log again."""


class Rebuilt(Struct, frozen=True, kw_only=True):
    """The history has reached log sequence `as_of` again and holds so many jobs."""

    as_of: int
    jobs: int
