"""The history: a DuckDB projection of the log. Deleting its file loses nothing; it is built again.

Events go in by batches, on one thread; the rows and the checkpoint move in one transaction, so that a batch counts
once however often it is delivered. What is asked (history_query.py) has cursors of its own, on any thread.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import duckdb

from eventlog import webhook
from eventlog.attempt import Attempts
from eventlog.events import JobEvent, ModelEvent, Recorded, RequestFinished
from eventlog.history_rows import (
    JOB_COLUMNS,
    Columns,
    attempt_columns,
    delivery_columns,
    delivery_of,
    end_columns,
    event_columns,
    job_columns,
    job_of,
    model_columns,
    naive,
    objects,
    request_columns,
)
from eventlog.history_schema import SCHEMA, TABLES, VERSION
from eventlog.job import Job, apply
from eventlog.webhook import Delivery
from eventlog.webhook_events import WebhookEvent

_JOB_EVENTS = get_args(JobEvent)
_MODEL_EVENTS = get_args(ModelEvent)
_WEBHOOK_EVENTS = get_args(WebhookEvent)

_END_ATTEMPTS = """
    UPDATE attempts SET ended_at = batch.ended_at, outcome = batch.outcome, error = batch.error FROM batch
    WHERE attempts.job_id = batch.job_id AND attempts.attempt = batch.attempt AND attempts.outcome IS NULL
"""

# Unfinished jobs that need not be read again; of more, those that were left alone the longest are.
_MOST_OPEN = 20_000


class OutdatedError(Exception):
    """The tables are those of another version of Fusion: delete the file, and it is built again from the log."""


class History:
    """The tables in one DuckDB file.

    Raises duckdb.Error when the file cannot be opened or is damaged, and `OutdatedError`.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = duckdb.connect(str(path))
        version = self._version()
        if version not in (None, VERSION):
            self._db.close()
            raise OutdatedError(f"{path} has the tables of version {version}, not {VERSION}")
        self._db.execute(SCHEMA)
        self._open_jobs: dict[str, Job] = {}
        self.checkpoint = int(self._one("SELECT seq FROM checkpoint")[0])
        """The sequence of the log up to which events are in."""

    def close(self) -> None:
        """Write everything out and let go of the file. No cursor may be in use any more."""
        self._db.close()

    def fill(self) -> None:
        """Expect many events at once: what goes in is brought into its final place less often."""
        self._db.execute("SET checkpoint_threshold = '256MB'")

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return what reads the tables as they are after some batch, whatever goes in meanwhile. To be closed."""
        return self._db.cursor()

    def ingest(self, entries: Sequence[Recorded]) -> int:
        """Take in `entries`, in the order of the log, and return how many were new.

        Those up to the checkpoint are left out.
        """
        new = [entry for entry in entries if entry.seq > self.checkpoint]
        if not new:
            return 0
        self._db.begin()
        try:
            self._insert("events", event_columns(new))
            jobs = self._update_jobs([entry.event for entry in new if isinstance(entry.event, _JOB_EVENTS)])
            self._update_deliveries([entry.event for entry in new if isinstance(entry.event, _WEBHOOK_EVENTS)])
            requests = [entry.event for entry in new if isinstance(entry.event, RequestFinished)]
            if requests:
                self._insert("requests", request_columns(requests))
            models = [entry.event for entry in new if isinstance(entry.event, _MODEL_EVENTS)]
            if models:
                self._insert("models", model_columns(models))
            self._db.execute("UPDATE checkpoint SET seq = ?", [new[-1].seq])
            self._db.commit()
        except duckdb.Error:
            self._db.rollback()
            raise
        self.checkpoint = new[-1].seq
        self._remember(jobs)
        return len(new)

    def forget(self, before: datetime) -> None:
        """Delete what happened before `before`, as the log has."""
        for table, column in TABLES.items():
            self._db.execute(f"DELETE FROM {table} WHERE {column} < ?", [naive(before)])  # noqa: S608 - our own names
        self._open_jobs.clear()

    def _version(self) -> int | None:
        """Return the version of the tables, None if there are none. Version 1 did not say it."""
        names = {row[0] for row in self._db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        if "schema_version" in names:
            return int(self._one("SELECT version FROM schema_version")[0])
        return 1 if "checkpoint" in names else None

    def _one(self, query: str) -> tuple[Any, ...]:
        row = self._db.execute(query).fetchone()
        assert row is not None  # noqa: S101 - the tables that are asked always have one row
        return row

    def _update_jobs(self, events: Sequence[JobEvent]) -> Iterable[Job]:
        """Return the jobs as they are after `events`."""
        ids = {event.job_id for event in events}
        known: dict[str, Job | None] = {job_id: self._open_jobs.get(job_id) for job_id in ids}
        missing = [job_id for job_id, job in known.items() if job is None]
        known |= {job.job_id: job for job in map(job_of, self._known("jobs", "job_id", missing, JOB_COLUMNS))}
        attempts = Attempts()
        for event in events:
            job = known[event.job_id]
            attempts.take(job, event)
            known[event.job_id] = apply(job, event)
        jobs = [job for job in known.values() if job is not None]
        if jobs:
            self._insert("jobs", job_columns(jobs), verb="INSERT OR REPLACE")
        self._update_attempts(attempts)
        return jobs

    def _update_attempts(self, attempts: Attempts) -> None:
        if attempts.ended:
            self._with_batch(_END_ATTEMPTS, end_columns(attempts.ended))
        if attempts.begun:
            self._insert("attempts", attempt_columns(list(attempts.begun.values())), verb="INSERT OR REPLACE")

    def _update_deliveries(self, events: Sequence[WebhookEvent]) -> None:
        ids = {event.delivery_id for event in events}
        known: dict[str, Delivery | None] = dict.fromkeys(ids)
        found = self._known("deliveries", "delivery_id", ids, Delivery.__struct_fields__)
        known |= {one.delivery_id: one for one in map(delivery_of, found)}
        for event in events:
            known[event.delivery_id] = webhook.apply(known[event.delivery_id], event)
        rows = [one for one in known.values() if one is not None]
        if rows:
            self._insert("deliveries", delivery_columns(rows), verb="INSERT OR REPLACE")

    def _known(self, table: str, key: str, ids: Collection[str], names: Iterable[str]) -> list[tuple[Any, ...]]:
        """Return the rows of `table` whose `key` is one of `ids`."""
        if not ids:
            return []
        query = f"SELECT {', '.join(names)} FROM {table} SEMI JOIN batch USING ({key})"  # noqa: S608 - our own names
        return self._with_batch(query, {key: objects(ids)})

    def _remember(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._open_jobs.pop(job.job_id, None)
            if not job.is_final:
                self._open_jobs[job.job_id] = job
        while len(self._open_jobs) > _MOST_OPEN:
            del self._open_jobs[next(iter(self._open_jobs))]

    def _insert(self, table: str, columns: Columns, verb: str = "INSERT") -> None:
        names = ", ".join(columns)
        self._with_batch(f"{verb} INTO {table} ({names}) SELECT {names} FROM batch", columns)  # noqa: S608 - our own names

    def _with_batch(self, query: str, columns: Columns) -> list[tuple[Any, ...]]:
        """Return what `query` gives, to which `columns` are the table `batch`."""
        self._db.register("batch", columns)
        try:
            return self._db.execute(query).fetchall()
        finally:
            self._db.unregister("batch")
