"""The batch: what its events add up to, and which event may come next.

    validating ──> in_progress ──> finalizing ──> completed, expired
        │  └─────────────┴─ cancelling ─────────> cancelled
        └──> failed

The statuses are OpenAI's. A final status stays: later events are ignored.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from eventlog.batch_events import (
    BatchCancelRequested,
    BatchCreated,
    BatchEnded,
    BatchEvent,
    BatchFailed,
    BatchFinalizing,
    BatchStarted,
    LineError,
)
from eventlog.events import Event, Unknown
from eventlog.job import Stamp

BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]

_FINAL = frozenset(("completed", "failed", "expired", "cancelled"))


class Batch(Struct, frozen=True, kw_only=True):
    """One batch. Each time is that of the event which made it so; the others are as in the events."""

    batch_id: str
    status: BatchStatus
    input_file_id: str
    endpoint: str
    completion_window: str
    created_at: datetime
    expires_at: datetime
    metadata: dict[str, Any] = {}
    key: str | None = None
    plan_blob: str | None = None
    outcomes_blob: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    is_expired: bool = False
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: tuple[LineError, ...] = ()
    in_progress_at: datetime | None = None
    cancelling_at: datetime | None = None
    finalizing_at: datetime | None = None
    completed_at: datetime | None = None
    failed_at: datetime | None = None
    expired_at: datetime | None = None
    cancelled_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.status in _FINAL

    @property
    def is_running(self) -> bool:
        """Whether its requests are being run, or ended."""
        return self.plan_blob is not None and self.finalizing_at is None and not self.is_final


def fold(events: Iterable[Event | Unknown]) -> Batch | None:
    """Return what the `events` of one batch, oldest first, add up to."""
    batch: Batch | None = None
    for event in events:
        if isinstance(event, BatchEvent):
            batch = apply(batch, event)
    return batch


def apply(batch: Batch | None, event: BatchEvent) -> Batch | None:  # noqa: PLR0911 - one per event
    """Return `batch` after `event`. Never raises: the fact has happened."""
    if batch is None:
        return _created(event) if isinstance(event, BatchCreated) else None
    if batch.is_final:
        return batch
    match event:
        case BatchCreated():
            return batch
        case BatchStarted():
            started = replace(batch, plan_blob=event.plan_blob, total=event.total, in_progress_at=event.at)
            return started if batch.status == "cancelling" else replace(started, status="in_progress")
        case BatchCancelRequested():
            return replace(batch, status="cancelling", cancelling_at=event.at)
        case BatchFinalizing():
            return _finalizing(batch, event)
        case BatchEnded():
            return _ended(batch, event)
        case BatchFailed():
            return replace(batch, status="failed", failed_at=event.at, errors=event.errors)
        case _:
            assert_never(event)


def decide_start(batch: Batch, stamp: Stamp, *, plan_blob: str, total: int) -> BatchStarted | None:
    """Return the event that has the requests run; None when the batch does not wait for that any more."""
    if batch.status != "validating":
        return None
    return BatchStarted(id=stamp.id, at=stamp.at, batch_id=batch.batch_id, plan_blob=plan_blob, total=total)


def decide_fail(batch: Batch, stamp: Stamp, errors: tuple[LineError, ...]) -> BatchFailed | None:
    """Return the event that ends a batch whose input is wrong; None when it does not wait for its input any more."""
    if batch.status != "validating":
        return None
    return BatchFailed(id=stamp.id, at=stamp.at, batch_id=batch.batch_id, errors=errors)


def decide_cancel(batch: Batch, stamp: Stamp) -> BatchCancelRequested | None:
    """Return the event that asks for the end; None when it was asked already, or all requests have ended."""
    if batch.status not in {"validating", "in_progress"}:
        return None
    return BatchCancelRequested(id=stamp.id, at=stamp.at, batch_id=batch.batch_id)


def decide_finalizing(
    batch: Batch, stamp: Stamp, *, outcomes_blob: str, completed: int, failed: int
) -> BatchFinalizing | None:
    """Return the event that has the files written; None when they are already.

    A batch has expired if its time is over and not all requests were done, and nobody had cancelled it.
    """
    if not batch.is_running:
        return None
    is_late = stamp.at >= batch.expires_at and completed + failed < batch.total
    return BatchFinalizing(
        id=stamp.id,
        at=stamp.at,
        batch_id=batch.batch_id,
        outcomes_blob=outcomes_blob,
        completed=completed,
        failed=failed,
        is_expired=is_late and batch.cancelling_at is None,
    )


def decide_end(
    batch: Batch, stamp: Stamp, *, output_file_id: str | None = None, error_file_id: str | None = None
) -> BatchEnded | None:
    """Return the event that ends a batch whose files are there, or that was cancelled before it was started."""
    was_never_started = batch.status == "cancelling" and batch.plan_blob is None
    if batch.is_final or (batch.finalizing_at is None and not was_never_started):
        return None
    return BatchEnded(
        id=stamp.id,
        at=stamp.at,
        batch_id=batch.batch_id,
        output_file_id=output_file_id,
        error_file_id=error_file_id,
    )


def _created(event: BatchCreated) -> Batch:
    return Batch(
        batch_id=event.batch_id,
        status="validating",
        input_file_id=event.input_file_id,
        endpoint=event.endpoint,
        completion_window=event.completion_window,
        created_at=event.at,
        expires_at=event.expires_at,
        metadata=event.metadata,
        key=event.key,
    )


def _finalizing(batch: Batch, event: BatchFinalizing) -> Batch:
    return replace(
        batch,
        status="cancelling" if batch.status == "cancelling" else "finalizing",
        finalizing_at=event.at,
        outcomes_blob=event.outcomes_blob,
        completed=event.completed,
        failed=event.failed,
        is_expired=event.is_expired,
    )


def _ended(batch: Batch, event: BatchEnded) -> Batch:
    ended = replace(batch, output_file_id=event.output_file_id, error_file_id=event.error_file_id)
    if batch.status == "cancelling":
        return replace(ended, status="cancelled", cancelled_at=event.at)
    if batch.is_expired:
        return replace(ended, status="expired", expired_at=event.at)
    return replace(ended, status="completed", completed_at=event.at)
