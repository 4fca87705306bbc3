"""What is said with the jobs actor."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from eventlog.events import Priority
from eventlog.job import JobStatus

Operation = Literal["chat", "complete", "embed", "rerank", "tokenize", "detokenize", "rag.ingest"]
# With its offset from UTC.
Moment = Annotated[datetime, Meta(tz=True)]
RunTimeout = Annotated[float, Meta(gt=0)]
MaxAttempts = Annotated[int, Meta(ge=1, le=100)]
CallbackUrl = Annotated[str, Meta(min_length=1, max_length=2048)]
JobId = Annotated[str, Meta(pattern=r"^job-[0-9A-Za-z_-]{1,64}\Z")]


class SubmitJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Accept work to be done later. `input` is the request of the operation, as its subject takes it.

    The `model` of "rag.ingest" is "rag", who does it.

    Submitting the same `job_id` again changes nothing and returns the job as it stands. `run_at` queues it only then;
    no attempt begins after `expires_at`; `run_timeout` is for one attempt, in seconds. `callback_url` is told how the
    job ends. `key` is the fingerprint of the API key.
    """

    model: Annotated[str, Meta(min_length=1)]
    operation: Operation
    input: Raw
    priority: Priority = "normal"
    metadata: dict[str, Any] = {}
    job_id: JobId | None = None
    run_at: Moment | None = None
    expires_at: Moment | None = None
    run_timeout: RunTimeout | None = None
    max_attempts: MaxAttempts | None = None
    callback_url: CallbackUrl | None = None
    key: str | None = None
    batch_id: str | None = None


class GetJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell how this job stands."""

    job_id: Annotated[str, Meta(min_length=1)]


class CancelJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End this job, queued or running."""

    job_id: Annotated[str, Meta(min_length=1)]


class ReplayJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Run this job again as a new one: same input, parameters and seed."""

    job_id: Annotated[str, Meta(min_length=1)]
    key: str | None = None


class RefuseJobs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End the queued jobs of a model that cannot be loaded; `error` is why."""

    model: Annotated[str, Meta(min_length=1)]
    error: str


class JobsRefused(Struct, frozen=True, kw_only=True):
    """So many jobs have been ended."""

    count: int


class Comparison(Struct, frozen=True, kw_only=True):
    """How the result of a job that was run again compares with the first.

    `differences` names, in words, what is not the same: the result, and what may be the reason (the files of the model,
    the first job's having failed).
    """

    replay_of: str
    is_same: bool
    differences: tuple[str, ...] = ()


class JobProgress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`done` of `total` parts of a running job are done; `message` says what was last, in words."""

    done: int
    total: int
    message: str = ""


class JobReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job as it stands in the log.

    `result` is left out when it is larger than a message may be; `result_blob` names it always. `position` is its
    place among the queued jobs of its model, 1 is next. `estimated_completion_ms` is from now, by how long such jobs
    took before; None when none has run yet.
    """

    job_id: str
    status: JobStatus
    model: str
    operation: str
    priority: Priority
    created_at: datetime
    attempts: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None
    # Not `Raw | None`: msgspec reads only null as that.
    result: Raw | UnsetType = UNSET
    result_blob: str | None = None
    error: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    reason: str | None = None
    metadata: dict[str, Any] = {}
    estimated_completion_ms: int | None = None
    position: int | None = None
    run_at: datetime | None = None
    expires_at: datetime | None = None
    run_timeout: float | None = None
    max_attempts: int | None = None
    callback_url: str | None = None
    seed: int | None = None
    revision: str | None = None
    cancel_requested: bool = False
    batch_id: str | None = None
    replay_of: str | None = None
    comparison: Comparison | None = None
    progress: JobProgress | None = None
