"""The events of OpenAI's files and batches."""

from datetime import datetime
from typing import Any

from msgspec import Struct


class FileStored(Struct, frozen=True, kw_only=True, tag_field="type", tag="file.stored"):
    """A file is kept as a blob."""

    id: str
    at: datetime
    file_id: str
    filename: str
    purpose: str
    bytes: int
    blob: str
    key: str | None = None
    v: int = 1


class FileDeleted(Struct, frozen=True, kw_only=True, tag_field="type", tag="file.deleted"):
    """Nobody may see the file any more."""

    id: str
    at: datetime
    file_id: str
    v: int = 1


class LineError(Struct, frozen=True, kw_only=True):
    """What is wrong with one line of a batch's input, counted from 1; None for the whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="batch.created"):
    """A batch was accepted: the lines of a file are to be requests to `endpoint` until `expires_at`."""

    id: str
    at: datetime
    batch_id: str
    input_file_id: str
    endpoint: str
    completion_window: str
    expires_at: datetime
    metadata: dict[str, Any] = {}
    key: str | None = None
    v: int = 1


class BatchStarted(Struct, frozen=True, kw_only=True, tag_field="type", tag="batch.started"):
    """The input was found right; `plan_blob` has its `total` requests as jobs."""

    id: str
    at: datetime
    batch_id: str
    plan_blob: str
    total: int
    v: int = 1


class BatchCancelRequested(Struct, frozen=True, kw_only=True, tag_field="type", tag="batch.cancel_requested"):
    """Somebody wants the batch to end."""

    id: str
    at: datetime
    batch_id: str
    v: int = 1


class BatchFinalizing(Struct, frozen=True, kw_only=True, tag_field="type", tag="batch.finalizing"):
    """All jobs have ended, or will not begin; `outcomes_blob` tells how each of them did. The files are next."""

    id: str
    at: datetime
    batch_id: str
    outcomes_blob: str
    completed: int
    failed: int
    is_expired: bool = False
    v: int = 1


class BatchEnded(Struct, frozen=True, kw_only=True, tag_field="type", tag="batch.ended"):
    """The files with the answers are there: the batch is completed, or cancelled or expired before it was."""

    id: str
    at: datetime
    batch_id: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    v: int = 1


class BatchFailed(Struct, frozen=True, kw_only=True, tag_field="type", tag="batch.failed"):
    """The input was not right: nothing was run."""

    id: str
    at: datetime
    batch_id: str
    errors: tuple[LineError, ...]
    v: int = 1


FileEvent = FileStored | FileDeleted
BatchEvent = BatchCreated | BatchStarted | BatchCancelRequested | BatchFinalizing | BatchEnded | BatchFailed
