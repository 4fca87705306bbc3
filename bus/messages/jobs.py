"""What is said with the jobs actor."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from eventlog.events import Priority
from eventlog.job import JobStatus

Operation = Literal["chat", "embed"]


class SubmitJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Accept work to be done later. `input` is the request of the operation, as its subject takes it.

    Submitting the same `job_id` again changes nothing and returns the job as it stands.
    """

    model: Annotated[str, Meta(min_length=1)]
    operation: Operation
    input: Raw
    priority: Priority = "normal"
    metadata: dict[str, Any] = {}
    job_id: Annotated[str, Meta(pattern=r"^job-[0-9A-Za-z_-]{1,64}$")] | None = None


class GetJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell how this job stands."""

    job_id: Annotated[str, Meta(min_length=1)]


class CancelJob(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End this job, queued or running."""

    job_id: Annotated[str, Meta(min_length=1)]


class JobReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job as it stands in the log.

    `result` is left out when it is larger than a message may be; `result_blob` names it always.
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
    reason: str | None = None
    metadata: dict[str, Any] = {}
    estimated_completion_ms: int | None = None
