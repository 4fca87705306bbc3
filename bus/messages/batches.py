"""What is said with the batches actor, and the lines of the two blobs that it and the edge write for each other."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from bus.errors import Failure
from bus.messages.jobs import Operation
from eventlog.batch import BatchStatus
from eventlog.batch_events import LineError

BatchId = Annotated[str, Meta(pattern=r"^batch_[0-9A-Za-z]{1,40}\Z")]
BlobName = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class CreateBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Accept a batch: the lines of a file are requests to `endpoint`, to be done within `completion_window`.

    Creating the same `batch_id` again changes nothing and returns the batch as it stands. `key` is the fingerprint of
    the API key.
    """

    input_file_id: Annotated[str, Meta(min_length=1)]
    endpoint: Annotated[str, Meta(min_length=1)]
    completion_window: Literal["24h"] = "24h"
    metadata: dict[str, Any] = {}
    batch_id: BatchId | None = None
    key: str | None = None


class StartBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run the `total` requests in the blob `plan_blob`, each a line with a `PlannedRequest`."""

    batch_id: BatchId
    plan_blob: BlobName
    total: Annotated[int, Meta(ge=1)]


class FailBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The input is not right: run nothing."""

    batch_id: BatchId
    errors: Annotated[tuple[LineError, ...], Meta(min_length=1)]


class FinishBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The files with the answers are there; none for what there is nothing of."""

    batch_id: BatchId
    output_file_id: str | None = None
    error_file_id: str | None = None


class GetBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell how this batch stands."""

    batch_id: Annotated[str, Meta(min_length=1)]


class ListBatches(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tell which batches there are, newest first, behind the batch `after`."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: str | None = None


class CancelBatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End this batch. What is done by then is kept."""

    batch_id: Annotated[str, Meta(min_length=1)]


class BatchReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A batch as it stands in the log; the counts of one that runs are those of this moment."""

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


class BatchList(Struct, frozen=True, kw_only=True):
    """Some of the batches, not more than a message may hold; `has_more` says that others follow."""

    batches: tuple[BatchReply, ...]
    has_more: bool


class PlannedRequest(Struct, frozen=True, kw_only=True):
    """A line of a plan: a request as its job takes it.

    `show` is what the edge needs to tell the answer; nobody else looks into it.
    """

    custom_id: str
    model: str
    operation: Operation
    input: Raw
    show: Raw


class RequestOutcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the outcomes, which are in the order of the plan: how the request ended, and `at` what time.

    `failure` says why one has failed that was run, or was refused before.
    """

    status: Literal["completed", "failed", "cancelled", "expired"]
    job_id: str
    at: datetime | None = None
    result_blob: str | None = None
    failure: Failure | None = None
