"""What is said with the historian."""

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct

from eventlog.events import Priority
from eventlog.history_schema import Bucket, Sort
from eventlog.job import JobStatus

# DuckDB counts no further.
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]

Limit = Annotated[int, Meta(ge=1, le=10_000)]


class HistoryQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tell which jobs there were, once the history has reached sequence `at_least` of the log.

    `metadata` is compared with the job's own, at its top level, as text. `cursor` is the `next_cursor` of the page
    before, asked with the same conditions and `sort`.
    """

    status: JobStatus | None = None
    model: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: dict[str, str] = {}
    sort: Sort = "-created_at"
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    offset: Offset = 0
    at_least: Annotated[int, Meta(ge=0)] = 0


class JobRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job as the history holds it; the fields are those of a job in the log."""

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
    error_code: str | None = None
    error_param: str | None = None
    cancel_requested: bool = False
    result_blob: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
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
    """Project the log again, into a new file, and answer from that one when it is done."""


class Rebuilt(Struct, frozen=True, kw_only=True):
    """The new history has reached log sequence `as_of` and holds so many jobs."""

    as_of: int
    jobs: int


class ListViews(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell which views and tables there are."""


class ViewCard(Struct, frozen=True, kw_only=True):
    """One view: its rows are by `bucket`, the beginning of an hour or a day of UTC. `has_key`: also by API key."""

    name: str
    about: str
    bucket: Bucket
    has_key: bool


class ViewList(Struct, frozen=True, kw_only=True):
    """The ready-made views, and the tables behind them."""

    views: tuple[ViewCard, ...]
    tables: tuple[str, ...]


class HistoryStats(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tell what a view has of the hours or days that are not wholly outside of `since` and `until`, latest first."""

    view: str
    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    key: str | None = None
    limit: Limit = 1000


class QueryHistory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Run one SELECT, in the SQL of DuckDB, on a copy of the history."""

    sql: Annotated[str, Meta(min_length=1, max_length=100_000)]
    limit: Limit = 1000


class HistoryTable(Struct, frozen=True, kw_only=True):
    """Rows, each with one value for each of `columns`; `truncated` when there would be more."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool
    as_of: int


class ExportHistory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Write a table or view as a Parquet file."""

    table: str


class Exported(Struct, frozen=True, kw_only=True):
    """The file is kept as the blob `blob`, as of log sequence `as_of`."""

    table: str
    blob: str
    size_bytes: int
    as_of: int
