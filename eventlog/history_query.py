"""What the history is asked: jobs by page, one job, and the views. Each question has a cursor of `History`."""

import base64
import binascii
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from msgspec import Struct

from eventlog.history_rows import JOB_COLUMNS, Microseconds, job_of, microseconds, naive, utc
from eventlog.history_schema import VIEWS, Sort
from eventlog.job import Job

# By what is sorted. Jobs that have not ended come after those that have, in both directions.
_SORTED = {
    "created_at": "created_at",
    "-created_at": "created_at",
    "completed_at": "coalesce(completed_at, TIMESTAMP 'infinity')",
    "-completed_at": "coalesce(completed_at, TIMESTAMP '-infinity')",
}

# A page is one message; see docs/http.md.
_MOST_BYTES = 512 * 1024


class CursorError(ValueError):
    """A cursor is not one that was given out for this order."""


class PageQuery(Struct, frozen=True, kw_only=True):
    """Which jobs are wanted. `metadata` compares values of the job's own, at the top level, as text."""

    status: str | None = None
    model: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: dict[str, str] = {}
    sort: Sort = "-created_at"
    limit: int = 100
    offset: int = 0
    cursor: str | None = None


class Page(Struct, frozen=True):
    """Some of the jobs that match, how many match in all, and the cursor to the next ones if there are any."""

    jobs: tuple[Job, ...]
    total: int
    next_cursor: str | None


class Table(Struct, frozen=True):
    """The answer to a question; `truncated` when there would be more rows. The values are as JSON has them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool


class StatsQuery(Struct, frozen=True, kw_only=True):
    """Which rows of a view are wanted: the hours or days that are not wholly outside of `since` and `until`."""

    view: str
    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    key: str | None = None
    limit: int = 1000


class _Place(Struct, frozen=True, array_like=True):
    """Behind which job a page begins. `at` is in microseconds; None is that of a job that has not ended."""

    sort: Sort
    at: Microseconds | None
    job_id: str


class _Where:
    """Conditions, and the values that are bound to them."""

    def __init__(self) -> None:
        self._conditions = ["TRUE"]
        self.values: list[object] = []

    def add(self, condition: str, *values: object) -> None:
        self._conditions.append(condition)
        self.values += values

    def __str__(self) -> str:
        return "WHERE " + " AND ".join(self._conditions)


def find_job(db: duckdb.DuckDBPyConnection, job_id: str) -> Job | None:
    """Return one job, or None."""
    found = _jobs(db, "WHERE job_id = ?", [job_id])
    return found[0] if found else None


def events_of(db: duckdb.DuckDBPyConnection, job_id: str) -> list[bytes]:
    """Return the events of a job as recorded, oldest first."""
    query = "SELECT body FROM events WHERE subject_id = ? AND type LIKE 'job.%' ORDER BY seq"
    return [str(row[0]).encode() for row in db.execute(query, [job_id]).fetchall()]


def count_jobs(db: duckdb.DuckDBPyConnection) -> int:
    """Return how many jobs there are."""
    return _count(db, "", [])


def page(db: duckdb.DuckDBPyConnection, query: PageQuery) -> Page:
    """Return the jobs that match, in their order. Jobs that come meanwhile move none from one page to another.

    There are fewer than `limit` if a message could not hold them.
    Raises `CursorError`.
    """
    where = _matching(query)
    total = _count(db, str(where), where.values)
    by = _SORTED[query.sort]
    direction, beyond = ("DESC", "<") if query.sort.startswith("-") else ("ASC", ">")
    if query.cursor is not None:
        place = _place(query.cursor, query.sort)
        end = f"TIMESTAMP '{'-' if direction == 'DESC' else ''}infinity'"
        where.add(f"({by}, job_id) {beyond} (coalesce(make_timestamp(?), {end}), ?)", place.at, place.job_id)
    order = f"{where} ORDER BY {by} {direction}, job_id {direction} LIMIT ? OFFSET ?"
    jobs = _jobs(db, order, [*where.values, query.limit + 1, query.offset])
    found = _fitting(jobs[: query.limit])
    return Page(tuple(found), total, _cursor(found[-1], query.sort) if len(found) < len(jobs) else None)


def stats(db: duckdb.DuckDBPyConnection, query: StatsQuery) -> Table:
    """Return the rows of one of VIEWS, the latest hour or day first."""
    bucket = VIEWS[query.view].bucket
    where = _Where()
    if query.since is not None:
        where.add(f"{bucket} + INTERVAL 1 {bucket} > ?", naive(query.since))
    if query.until is not None:
        where.add(f"{bucket} < ?", naive(query.until))
    for column, value in (("model", query.model), ("key", query.key)):
        if value is not None:
            where.add(f"{column} = ?", value)
    found = db.execute(
        f"SELECT * FROM {query.view} {where} ORDER BY 1 DESC, 2, 3, 4 LIMIT ?",  # noqa: S608 - our own names
        [*where.values, query.limit + 1],
    )
    columns, rows = tuple(str(column[0]) for column in found.description or ()), found.fetchall()
    return Table(columns, tuple(map(plain_row, rows[: query.limit])), len(rows) > query.limit)


def export(db: duckdb.DuckDBPyConnection, table: str, to: Path) -> None:
    """Write one of TABLES or VIEWS as a Parquet file."""
    db.sql(f"FROM {table}").write_parquet(str(to))


def plain_row(row: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values as JSON has them: moments in UTC, and as text what JSON has no number or list for."""
    return tuple(map(_plain, row))


def _plain(value: Any) -> Any:  # noqa: PLR0911 - one per type
    match value:
        case None | bool() | str() | float():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else str(value)
        case datetime():
            return utc(value) if value.tzinfo is None else value
        case date():
            return value
        case Decimal():
            return float(value)
        case timedelta():
            return value.total_seconds()
        case list() | tuple():
            return [_plain(each) for each in value]
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            return str(value)


def _fitting(jobs: list[Job]) -> list[Job]:
    """Return as many of the first `jobs` as a page may have, and one at least."""
    sizes = accumulate(len(msgspec.json.encode(job)) for job in jobs)
    return jobs[: max(sum(size <= _MOST_BYTES for size in sizes), 1)]


def _matching(query: PageQuery) -> _Where:
    where = _Where()
    for condition, value in (
        ("status = ?", query.status),
        ("model = ?", query.model),
        ("created_at > ?", query.created_after and naive(query.created_after)),
        ("created_at < ?", query.created_before and naive(query.created_before)),
    ):
        if value is not None:
            where.add(condition, value)
    for name, text in query.metadata.items():
        # A JSON pointer (RFC 6901), so that a name may have any characters.
        pointer = "/" + name.replace("~", "~0").replace("/", "~1")
        where.add("json_extract_string(metadata, ?) = ?", pointer, text)
    return where


def _jobs(db: duckdb.DuckDBPyConnection, clause: str, values: list[object]) -> list[Job]:
    query = f"SELECT {', '.join(JOB_COLUMNS)} FROM jobs {clause}"  # noqa: S608 - our own column names
    return [job_of(row) for row in db.execute(query, values).fetchall()]


def _count(db: duckdb.DuckDBPyConnection, where: str, values: list[object]) -> int:
    row = db.execute(f"SELECT count(*) FROM jobs {where}", values).fetchone()  # noqa: S608 - our own column names
    assert row is not None  # noqa: S101 - an aggregate always has one row
    return int(row[0])


def _cursor(job: Job, sort: Sort) -> str:
    at = job.created_at if sort.endswith("created_at") else job.completed_at
    place = _Place(sort, None if at is None else microseconds(at), job.job_id)
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _place(cursor: str, sort: Sort) -> _Place:
    try:
        place = _place_decoder.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise CursorError("This cursor was not given out by a list of jobs.") from error
    if place.sort != sort:
        raise CursorError(f"This cursor is for a list that is sorted by {place.sort}, not {sort}.")
    return place


_place_decoder = msgspec.json.Decoder(_Place)
