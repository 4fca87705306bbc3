"""What a webhook is told: little, without inputs and outputs, and the same at each attempt."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from eventlog.job import Job

_LONGEST_ERROR = 2000


class JobData(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it stood with the event; `result_url` is a path of Fusion's edge."""

    job_id: str
    status: str
    model_id: str
    operation: str
    created_at: datetime
    completed_at: datetime | None
    metadata: dict[str, Any]
    error: str | None
    reason: str | None
    result_url: str | None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a test is for."""

    webhook_id: str


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What Standard Webhooks 1.0.0 has in a body."""

    type: str
    timestamp: datetime
    data: JobData | Trial


def body_of(job: Job, kind: str, at: datetime) -> bytes:
    """Return the body that tells of the event `kind` of `job`, as this stood with it: under 20 KB."""
    data = JobData(
        job_id=job.job_id,
        status=job.status,
        model_id=job.model,
        operation=job.operation,
        created_at=_utc(job.created_at),
        completed_at=job.completed_at and _utc(job.completed_at),
        metadata=job.metadata,
        error=job.error and job.error[:_LONGEST_ERROR],
        reason=job.reason,
        result_url=f"/api/mcp/jobs/{job.job_id}" if job.status == "completed" else None,
    )
    return msgspec.json.encode(Body(type=kind, timestamp=_utc(at), data=data))


def trial_body(webhook_id: str, at: datetime) -> bytes:
    """Return the body of a test."""
    return msgspec.json.encode(Body(type="webhook.test", timestamp=_utc(at), data=Trial(webhook_id=webhook_id)))


def _utc(at: datetime) -> datetime:
    # msgspec writes UTC, and only UTC, with a Z.
    return at.astimezone(UTC)
