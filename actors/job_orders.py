"""What a job has to be like to be accepted, and the event that accepts it. Decides alone, and stores nothing."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from actors.config import ActorsConfig
from bus.decoding import decode
from bus.errors import RefusedError
from bus.messages.chat import ChatRequest
from bus.messages.embeddings import EmbedRequest
from bus.messages.jobs import SubmitJob
from bus.messages.models import ModelCard
from bus.messages.rag_documents import IngestDocuments
from bus.messages.rerank import RerankRequest
from bus.messages.tokens import DetokenizeRequest, TokenizeRequest
from eventlog.events import JobQueued, JobScheduled
from eventlog.job import Job, Stamp

_KINDS = {
    "chat": "chat",
    "complete": "chat",
    "embed": "embeddings",
    "rerank": "rerank",
    "tokenize": "chat",
    "detokenize": "chat",
}
# What no model of the catalogue does, but an actor; jobs name it in the model's place.
ACTORS = {"rag.ingest": "rag"}
_INPUTS: dict[str, msgspec.json.Decoder[Any]] = {
    "chat": msgspec.json.Decoder(ChatRequest),
    "complete": msgspec.json.Decoder(ChatRequest),
    "embed": msgspec.json.Decoder(EmbedRequest),
    "rerank": msgspec.json.Decoder(RerankRequest),
    "tokenize": msgspec.json.Decoder(TokenizeRequest),
    "detokenize": msgspec.json.Decoder(DetokenizeRequest),
    "rag.ingest": msgspec.json.Decoder(IngestDocuments),
}
_METADATA_BYTES = 16 * 1024

# So long before the log forgets a job, it has ended.
_MARGIN = timedelta(hours=1)


class Times(Struct, frozen=True, kw_only=True):
    """When a job is queued, None for at once, and until when an attempt of it may begin."""

    run_at: datetime | None
    expires_at: datetime


class Source(Struct, frozen=True, kw_only=True):
    """What a job is made of besides its order: the model's id, the blob of its input, and the seed, if it needs one."""

    model: str
    input_blob: str
    seed: int | None


def check_order(request: SubmitJob, card: ModelCard | None) -> bool:
    """Raise `RefusedError` if the model cannot do that; return whether it needs a seed to be done again alike.

    `card` is None for what an actor of ACTORS does.
    """
    if card is None and request.model != ACTORS[request.operation]:
        message = f"'{request.operation}' is done by '{ACTORS[request.operation]}', not by '{request.model}'."
        raise RefusedError("invalid_request", message, param="model_id")
    if card is not None and card.kind != _KINDS[request.operation]:
        message = f"The model '{request.model}' is for {card.kind} and cannot do '{request.operation}'."
        raise RefusedError("invalid_request", message, param="operation")
    if len(msgspec.json.encode(request.metadata)) > _METADATA_BYTES:
        raise RefusedError("too_large", "The metadata is larger than 16 KiB.", param="metadata")
    try:
        asked = decode(_INPUTS[request.operation], bytes(request.input))
    except RefusedError as error:
        param = f"input.{error.failure.param}" if error.failure.param else "input"
        raise RefusedError(error.code, error.failure.message, param=param) from error
    return isinstance(asked, ChatRequest) and asked.seed is None and asked.temperature != 0


def decide_times(request: SubmitJob, at: datetime, config: ActorsConfig) -> Times:
    """Return the times of a job that is submitted at `at`. Raises `RefusedError` for such as cannot be kept.

    1. `run_at` leaves a day until the log forgets the job; one that has passed is now.
    2. `expires_at` comes after both, and before the log forgets the job.
    3. Unsaid, it comes `job_queue_timeout` after them, as far as that goes.
    """
    run_at = request.run_at if request.run_at is not None and request.run_at > at else None
    days = config.job_ttl_days - 1
    if run_at is not None and run_at > at + timedelta(days=days):  # 1
        message = f"'run_at' is more than {days} days ahead, and jobs are kept for {config.job_ttl_days} days."
        raise RefusedError("invalid_request", message, param="run_at")
    # Both are told as they are kept: in UTC.
    run_at = run_at and run_at.astimezone(UTC)
    begin, last = run_at or at, _last(at, config)
    if request.expires_at is not None:  # 2
        if not begin < request.expires_at <= last:
            message = f"'expires_at' has to be between {begin:%Y-%m-%dT%H:%M:%SZ} and {last:%Y-%m-%dT%H:%M:%SZ}."
            raise RefusedError("invalid_request", message, param="expires_at")
        return Times(run_at=run_at, expires_at=request.expires_at.astimezone(UTC))
    return Times(run_at=run_at, expires_at=expiry(begin, at, config))  # 3


def expiry(begin: datetime, at: datetime, config: ActorsConfig) -> datetime:
    """Return when a job expires that says nothing of it, was submitted at `at`, and may begin at `begin`."""
    return min(begin + timedelta(seconds=config.job_queue_timeout), _last(at, config))


def accepted(request: SubmitJob, stamp: Stamp, job_id: str, source: Source, times: Times) -> JobQueued | JobScheduled:
    """Return the event that accepts the job."""
    fields: dict[str, Any] = {
        "id": stamp.id,
        "at": stamp.at,
        "job_id": job_id,
        "model": source.model,
        "operation": request.operation,
        "priority": request.priority,
        "input_blob": source.input_blob,
        "metadata": request.metadata,
        "expires_at": times.expires_at,
        "run_timeout": request.run_timeout,
        "max_attempts": request.max_attempts,
        "seed": source.seed,
        "callback_url": request.callback_url,
        "key": request.key,
        "batch_id": request.batch_id,
    }
    return JobQueued(**fields) if times.run_at is None else JobScheduled(**fields, run_at=times.run_at)


def replayed(first: Job, stamp: Stamp, job_id: str, expires_at: datetime, key: str | None) -> JobQueued:
    """Return the event that queues a job like `first`. Nobody is called back."""
    return JobQueued(
        id=stamp.id,
        at=stamp.at,
        job_id=job_id,
        model=first.model,
        operation=first.operation,
        priority=first.priority,
        input_blob=first.input_blob,
        metadata=first.metadata,
        expires_at=expires_at,
        run_timeout=first.run_timeout,
        max_attempts=first.max_attempts,
        seed=first.seed,
        key=key,
        replay_of=first.job_id,
    )


def _last(at: datetime, config: ActorsConfig) -> datetime:
    return at + timedelta(days=config.job_ttl_days) - _MARGIN
