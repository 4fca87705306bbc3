"""The facts that are recorded. Never edited, never refused when read.

Every event has `id` (a ULID, also the `Nats-Msg-Id` under which it is written once) and `at` (UTC, for
people; order is the sequence of the log). Events hold metadata only: inputs and results are blobs.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from eventlog.batch_events import BatchEvent, FileEvent
from eventlog.rag_events import RagEvent
from eventlog.webhook_events import WebhookEvent

Priority = Literal["high", "normal", "low"]
FailureReason = Literal["error", "expired", "input_lost", "max_attempts", "model_unavailable", "refused", "timeout"]
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
# What no table can hold makes an event `Unknown`, and does not stop the projection.
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class JobScheduled(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="job.scheduled"):
    """Work was accepted that is to be queued at `run_at`. The other fields are those of `JobQueued`."""

    id: str
    at: datetime
    job_id: str
    model: str
    operation: str
    priority: Priority
    input_blob: str
    run_at: datetime
    metadata: dict[str, Any] = {}
    expires_at: datetime | None = None
    run_timeout: float | None = None
    max_attempts: int | None = None
    seed: int | None = None
    callback_url: str | None = None
    key: str | None = None
    replay_of: str | None = None
    batch_id: str | None = None
    v: int = 1


class JobQueued(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="job.queued"):
    """Work was accepted, or, if it was scheduled, its time has come.

    `input_blob` names the request, encoded as its subject takes it. No attempt begins after `expires_at`;
    `run_timeout` is for one attempt, in seconds. `seed` holds where the request names none, so that the job can be
    run again alike. `key` is the fingerprint of the API key, `replay_of` the job that is run again.
    """

    id: str
    at: datetime
    job_id: str
    model: str
    operation: str
    priority: Priority
    input_blob: str
    metadata: dict[str, Any] = {}
    expires_at: datetime | None = None
    run_timeout: float | None = None
    max_attempts: int | None = None
    seed: int | None = None
    callback_url: str | None = None
    key: str | None = None
    replay_of: str | None = None
    batch_id: str | None = None
    v: int = 1


class JobStarted(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="job.started"):
    """A worker has begun attempt number `attempt`, counted from 1.

    `revision` tells the files of its model from any others.
    """

    id: str
    at: datetime
    job_id: str
    actor: str
    attempt: Count
    revision: str | None = None
    v: int = 1


class JobRetryScheduled(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="job.retry_scheduled"):
    """The attempt was lost for a reason that may pass; the job is queued again after `delay` seconds."""

    id: str
    at: datetime
    job_id: str
    attempt: Count
    delay: float
    error: str
    v: int = 1


class JobCancelRequested(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="job.cancel_requested"):
    """Somebody wants the job to end."""

    id: str
    at: datetime
    job_id: str
    v: int = 1


class JobCompleted(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="job.completed"):
    """The job is done; `result_blob` names the answer."""

    id: str
    at: datetime
    job_id: str
    attempt: Count
    result_blob: str
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    v: int = 1


class JobFailed(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="job.failed"):
    """The job will not be done. `error_code` and `error_param` are those of the request that was refused."""

    id: str
    at: datetime
    job_id: str
    reason: FailureReason
    error: str
    error_code: str | None = None
    error_param: str | None = None
    v: int = 1


class JobCancelled(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="job.cancelled"):
    """The job was ended before it was done."""

    id: str
    at: datetime
    job_id: str
    v: int = 1


class RequestFinished(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="request.finished"):
    """A request has left its actor. Times are in seconds; `outcome` is `completed` or the code of its error.

    `key` is the fingerprint of the API key.
    """

    id: str
    at: datetime
    request_id: str
    model: str
    operation: str
    outcome: str
    queued: float
    first: float | None
    total: float
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    cached_tokens: Count = 0
    key: str | None = None
    v: int = 1


class ResponseStored(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="response.stored"):
    """A response is kept. `body_blob` names what was asked and answered.

    One in the background is stored when it is queued; how it stands is told by the job `job_id`.
    """

    id: str
    at: datetime
    response_id: str
    model: str
    status: ResponseStatus
    body_blob: str
    previous_response_id: str | None = None
    job_id: str | None = None
    v: int = 1


class ResponseDeleted(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="response.deleted"):
    """Nobody may see the response any more."""

    id: str
    at: datetime
    response_id: str
    v: int = 1


class ModelLoading(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="model.loading"):
    """A slot was given the model, which is expected to take `estimated_bytes`; `why` says for whom."""

    id: str
    at: datetime
    model: str
    instance: str
    why: str
    estimated_bytes: int
    v: int = 1


class ModelReady(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="model.ready"):
    """An instance has loaded and warmed up its model, in `seconds`.

    `size_bytes` is that of the weights, `memory_bytes` what the process takes.
    """

    id: str
    at: datetime
    model: str
    instance: str
    seconds: float
    size_bytes: int
    memory_bytes: int = 0
    v: int = 1


class ModelRefused(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="model.refused"):
    """A model was not loaded, or could not be; `why` says the reason."""

    id: str
    at: datetime
    model: str
    why: str
    instance: str = ""
    v: int = 1


class ModelDraining(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="model.draining"):
    """An instance takes no more and ends when what runs on it is done; `why` says the reason."""

    id: str
    at: datetime
    model: str
    instance: str
    why: str
    v: int = 1


class ModelUnloaded(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="model.unloaded"):
    """An instance that was draining has ended, `seconds` later, and gave `freed_bytes` back."""

    id: str
    at: datetime
    model: str
    instance: str
    why: str
    seconds: float
    freed_bytes: int
    v: int = 1


class ModelLost(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="model.lost"):
    """An instance's process has ended without being asked to."""

    id: str
    at: datetime
    model: str
    instance: str
    why: str
    v: int = 1


class Unknown(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="unknown"):
    """An event of a kind that this version does not know, or cannot read. Kept, and otherwise left alone."""

    kind: str
    raw: bytes


JobEvent = (
    JobScheduled
    | JobQueued
    | JobStarted
    | JobRetryScheduled
    | JobCancelRequested
    | JobCompleted
    | JobFailed
    | JobCancelled
)
ResponseEvent = ResponseStored | ResponseDeleted
ModelEvent = ModelLoading | ModelReady | ModelRefused | ModelDraining | ModelUnloaded | ModelLost
Event = JobEvent | ResponseEvent | RequestFinished | ModelEvent | WebhookEvent | FileEvent | BatchEvent | RagEvent


class Recorded(msgspec.Struct, frozen=True):
    """An event with its place in the log, and as it was recorded.

    Read from a stream that is sourced from the log, `seq` is its place there, and `source` that in the log.
    """

    seq: int
    event: Event | Unknown
    raw: bytes
    source: int = 0


class _Kind(msgspec.Struct):
    type: str = ""


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_kind_decoder = msgspec.json.Decoder(_Kind)


def encode(event: Event) -> bytes:
    """Return `event` as it is recorded: one JSON object."""
    return _encoder.encode(event)


def decode(raw: bytes) -> Event | Unknown:
    """Return the event recorded as `raw`. Never raises: what cannot be read is `Unknown`."""
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Unknown(kind=_kind(raw), raw=raw)


def _kind(raw: bytes) -> str:
    try:
        return _kind_decoder.decode(raw).type
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
