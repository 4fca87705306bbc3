"""From events to columns of numpy, as they go into the tables of the history.

A dict of numpy columns goes in at 74,000 rows a second, `executemany` at 2,600 (docs/adr/0003).
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, get_args

import numpy as np
from msgspec import Meta

from eventlog.attempt import Attempt, AttemptEnd
from eventlog.batch_events import BatchEvent, FileEvent
from eventlog.events import (
    Event,
    JobEvent,
    ModelDraining,
    ModelEvent,
    ModelLoading,
    ModelLost,
    ModelReady,
    ModelRefused,
    ModelUnloaded,
    Recorded,
    RequestFinished,
    ResponseEvent,
    Unknown,
)
from eventlog.job import Job
from eventlog.rag_events import RagEvent
from eventlog.webhook import Delivery
from eventlog.webhook_events import WebhookEvent

Columns = dict[str, Any]

# From the year 1 to 9999, which is what Python has.
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
Microseconds = Annotated[int, Meta(ge=_FIRST, le=_LAST)]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_A_TIME = -(2**63)
_LARGEST = 2**63

# The field that tells what an event is about.
_ABOUT: dict[type[Any], str] = {
    kind: name
    for family, name in (
        (JobEvent, "job_id"),
        (ResponseEvent, "response_id"),
        (ModelEvent, "model"),
        (WebhookEvent, "delivery_id"),
        (FileEvent, "file_id"),
        (BatchEvent, "batch_id"),
    )
    for kind in get_args(family)
} | {RequestFinished: "request_id"}
_ABOUT |= {
    kind: "document_id" if "document_id" in kind.__struct_fields__ else "collection" for kind in get_args(RagEvent)
}

JOB_COLUMNS = tuple(Job.__struct_fields__)
_REQUEST_COLUMNS = tuple(name for name in RequestFinished.__struct_fields__ if name not in {"id", "at", "v"})


def event_columns(entries: Sequence[Recorded]) -> Columns:
    """Return the rows of `events`."""
    events = [entry.event for entry in entries]
    return {
        "seq": np.array([entry.seq for entry in entries]),
        "recorded_at": _times(None if isinstance(event, Unknown) else event.at for event in events),
        "type": objects(_kind(event) for event in events),
        "subject_id": objects(getattr(event, _ABOUT.get(type(event), "-"), None) for event in events),
        "body": objects(entry.raw.decode("utf-8", "replace") for entry in entries),
    }


def job_columns(jobs: Sequence[Job]) -> Columns:
    """Return the rows of `jobs`."""
    columns = _columns(JOB_COLUMNS, jobs)
    columns["metadata"] = objects(json.dumps(job.metadata) if job.metadata else "{}" for job in jobs)
    columns["seed"] = objects(_stored(job.seed) for job in jobs)
    columns["max_attempts"] = objects(_stored(job.max_attempts) for job in jobs)
    return columns


def attempt_columns(attempts: Sequence[Attempt]) -> Columns:
    """Return the rows of `attempts`."""
    return _columns(Attempt.__struct_fields__, attempts)


def end_columns(ended: Mapping[tuple[str, int], AttemptEnd]) -> Columns:
    """Return how attempts ended, by job and number."""
    return _columns(AttemptEnd.__struct_fields__, ended.values()) | {
        "job_id": objects(job_id for job_id, _ in ended),
        "attempt": objects(attempt for _, attempt in ended),
    }


def delivery_columns(deliveries: Sequence[Delivery]) -> Columns:
    """Return the rows of `deliveries`."""
    columns = _columns(Delivery.__struct_fields__, deliveries)
    columns["seq"] = objects(_stored(delivery.seq) for delivery in deliveries)
    columns["attempts"] = objects(_stored(delivery.attempts) for delivery in deliveries)
    columns["http_status"] = objects(_stored(delivery.http_status) for delivery in deliveries)
    return columns


def request_columns(events: Sequence[RequestFinished]) -> Columns:
    """Return the rows of `requests`."""
    return _columns(_REQUEST_COLUMNS, events) | {"recorded_at": _times(event.at for event in events)}


def model_columns(events: Sequence[ModelEvent]) -> Columns:
    """Return the rows of `models`."""
    measured = [_measured(event) for event in events]
    return {
        "model": objects(event.model for event in events),
        "instance": objects(event.instance for event in events),
        "what": objects(_kind(event).partition(".")[2] for event in events),
        "recorded_at": _times(event.at for event in events),
        "seconds": objects(seconds for seconds, _ in measured),
        "bytes": objects(_stored(size) for _, size in measured),
        "why": objects(None if isinstance(event, ModelReady) else event.why for event in events),
    }


def job_of(row: tuple[Any, ...]) -> Job:
    """Return the job in a row of `jobs`, its columns being JOB_COLUMNS."""
    fields = _fields(JOB_COLUMNS, row)
    return Job(**fields | {"metadata": json.loads(fields["metadata"])})


def delivery_of(row: tuple[Any, ...]) -> Delivery:
    """Return the delivery in a row of `deliveries`, its columns being the fields."""
    return Delivery(**_fields(Delivery.__struct_fields__, row))


def naive(at: datetime) -> datetime:
    """Return `at` as the tables have it. One that names no zone is in UTC."""
    with suppress(OverflowError):  # It is in the year 1 or 9999 only where its zone is.
        at = at.astimezone(UTC) if at.tzinfo else at
    return at.replace(tzinfo=None)


def utc(at: datetime) -> datetime:
    """Return a moment from a table, where all are in UTC and do not say so."""
    return at.replace(tzinfo=UTC)


def objects(values: Iterable[Any]) -> Any:
    """Return a column of anything."""
    return np.array(list(values), dtype=object)


def _fields(names: Iterable[str], row: tuple[Any, ...]) -> dict[str, Any]:
    """Return the fields in a row."""
    fields = dict(zip(names, row, strict=True))
    return fields | {name: utc(at) for name, at in fields.items() if isinstance(at, datetime)}


def _columns(names: Iterable[str], rows: Collection[Any]) -> Columns:
    return {name: (_times if name.endswith("_at") else objects)(getattr(row, name) for row in rows) for name in names}


def _times(values: Iterable[datetime | None]) -> Any:
    # Microseconds are faster than datetimes without their zone, which numpy would turn into them one by one.
    times = np.array([_NOT_A_TIME if at is None else microseconds(at) for at in values])
    np.clip(times, _FIRST, _LAST, out=times, where=times != _NOT_A_TIME)
    return times.view("datetime64[us]")


def microseconds(at: datetime) -> int:
    """Return the microseconds from 1970 to `at`."""
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _kind(event: Event | Unknown) -> str:
    return event.kind if isinstance(event, Unknown) else str(type(event).__struct_config__.tag)


def _measured(event: ModelEvent) -> tuple[float | None, int | None]:
    """Return the seconds and the bytes that an event tells of."""
    match event:
        case ModelLoading():
            return None, event.estimated_bytes
        case ModelReady():
            return event.seconds, event.memory_bytes or event.size_bytes
        case ModelUnloaded():
            return event.seconds, event.freed_bytes
        case ModelRefused() | ModelDraining() | ModelLost():
            return None, None


def _stored(number: int | None) -> int | None:
    """Return `number` if a column can hold it."""
    return None if number is None or not -_LARGEST <= number < _LARGEST else number
