"""Builders: valid things by default."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from bus.ids import new_id
from bus.messages.chat import ChatRequest, Message
from bus.messages.jobs import SubmitJob
from eventlog.batch_events import (
    BatchCancelRequested,
    BatchCreated,
    BatchEnded,
    BatchFailed,
    BatchFinalizing,
    BatchStarted,
    FileDeleted,
    FileStored,
    LineError,
)
from eventlog.events import (
    Event,
    JobCancelled,
    JobCancelRequested,
    JobCompleted,
    JobFailed,
    JobQueued,
    JobRetryScheduled,
    JobScheduled,
    JobStarted,
    Recorded,
    RequestFinished,
    ResponseDeleted,
    ResponseStored,
    Unknown,
    encode,
)
from eventlog.job import Job
from eventlog.rag_events import CollectionCreated, CollectionDeleted, DocumentDeleted, DocumentStored

JOB_ID = "job-1"
MODEL = "local/tiny-1.5"
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


_ACCEPTED = {"model": MODEL, "operation": "chat", "priority": "normal", "input_blob": "0" * 64}


def at(seconds: float) -> datetime:
    """Return a moment so long after AT."""
    return AT + timedelta(seconds=seconds)


def job_queued(**fields: Any) -> JobQueued:
    """Return the first event of a job."""
    return JobQueued(**(_common() | _ACCEPTED | fields))


def job_scheduled(**fields: Any) -> JobScheduled:
    """Return the first event of a job that is to be queued a minute later."""
    return JobScheduled(**(_common() | _ACCEPTED | {"run_at": at(60)} | fields))


def job_started(**fields: Any) -> JobStarted:
    """Return the start of the first attempt."""
    return JobStarted(**(_common() | {"actor": "chat-1", "attempt": 1} | fields))


def job_retry_scheduled(**fields: Any) -> JobRetryScheduled:
    """Return the loss of the first attempt."""
    return JobRetryScheduled(**(_common() | {"attempt": 1, "delay": 0.5, "error": "lost"} | fields))


def job_cancel_requested(**fields: Any) -> JobCancelRequested:
    """Return the wish that the job ends."""
    return JobCancelRequested(**(_common() | fields))


def job_completed(**fields: Any) -> JobCompleted:
    """Return the end of a job that went well."""
    values = {"attempt": 1, "result_blob": "1" * 64, "prompt_tokens": 2, "completion_tokens": 3}
    return JobCompleted(**(_common() | values | fields))


def job_failed(**fields: Any) -> JobFailed:
    """Return the end of a job that did not."""
    return JobFailed(**(_common() | {"reason": "error", "error": "broken"} | fields))


def job_cancelled(**fields: Any) -> JobCancelled:
    """Return the end of a job that nobody wants any more."""
    return JobCancelled(**(_common() | fields))


def request_finished(**fields: Any) -> RequestFinished:
    """Return the end of a request."""
    values = {
        "id": new_id(),
        "at": AT,
        "request_id": new_id("req"),
        "model": MODEL,
        "operation": "chat",
        "outcome": "completed",
        "queued": 0.1,
        "first": 0.2,
        "total": 0.3,
    }
    return RequestFinished(**(values | fields))


def response_stored(**fields: Any) -> ResponseStored:
    """Return the first event of a response."""
    values = {
        "id": new_id(),
        "at": AT,
        "response_id": "resp_1",
        "model": MODEL,
        "status": "completed",
        "body_blob": "0" * 64,
    }
    return ResponseStored(**(values | fields))


def response_deleted(**fields: Any) -> ResponseDeleted:
    """Return the last event of a response."""
    return ResponseDeleted(**({"id": new_id(), "at": AT, "response_id": "resp_1"} | fields))


def file_stored(**fields: Any) -> FileStored:
    """Return the first event of a file."""
    values = {
        "id": new_id(),
        "at": AT,
        "file_id": "file-1",
        "filename": "input.jsonl",
        "purpose": "batch",
        "bytes": 1,
        "blob": "0" * 64,
    }
    return FileStored(**(values | fields))


def file_deleted(**fields: Any) -> FileDeleted:
    """Return the last event of a file."""
    return FileDeleted(**({"id": new_id(), "at": AT, "file_id": "file-1"} | fields))


def batch_created(**fields: Any) -> BatchCreated:
    """Return the first event of a batch, which has a day."""
    values = {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "expires_at": at(24 * 3600),
    }
    return BatchCreated(**(_of_batch() | values | fields))


def batch_started(**fields: Any) -> BatchStarted:
    """Return the start of a batch of three requests."""
    return BatchStarted(**(_of_batch() | {"plan_blob": "1" * 64, "total": 3} | fields))


def batch_cancel_requested(**fields: Any) -> BatchCancelRequested:
    """Return the wish that the batch ends."""
    return BatchCancelRequested(**(_of_batch() | fields))


def batch_finalizing(**fields: Any) -> BatchFinalizing:
    """Return the end of the last request of a batch."""
    return BatchFinalizing(**(_of_batch() | {"outcomes_blob": "2" * 64, "completed": 2, "failed": 1} | fields))


def batch_ended(**fields: Any) -> BatchEnded:
    """Return the end of a batch."""
    values = {"output_file_id": "file-2", "error_file_id": "file-3"}
    return BatchEnded(**(_of_batch() | values | fields))


def batch_failed(**fields: Any) -> BatchFailed:
    """Return the end of a batch whose input is wrong."""
    error = LineError(code="invalid_json_line", message="This is no JSON.", line=7)
    return BatchFailed(**(_of_batch() | {"errors": (error,)} | fields))


def collection_created(**fields: Any) -> CollectionCreated:
    """Return the beginning of a collection."""
    values = {"name": "default", "model": "echo", "dimensions": 8}
    return CollectionCreated(**(_of_collection() | values | fields))


def document_stored(**fields: Any) -> DocumentStored:
    """Return that a document is in the collection, or is there anew."""
    values = {
        "document_id": "doc-1",
        "filename": "a.txt",
        "source_blob": "3" * 64,
        "contents_blob": "4" * 64,
        "content_hash": "5" * 64,
        "chunks": 1,
    }
    return DocumentStored(**(_of_collection() | values | fields))


def document_deleted(**fields: Any) -> DocumentDeleted:
    """Return the end of a document."""
    return DocumentDeleted(**(_of_collection() | {"document_id": "doc-1"} | fields))


def collection_deleted(**fields: Any) -> CollectionDeleted:
    """Return the end of a collection."""
    return CollectionDeleted(**(_of_collection() | fields))


def job(**fields: Any) -> Job:
    """Return a job that was just queued."""
    values = {
        "job_id": JOB_ID,
        "status": "queued",
        "model": MODEL,
        "operation": "chat",
        "priority": "normal",
        "created_at": AT,
        "input_blob": "0" * 64,
        "queued_at": AT,
    }
    return Job(**(values | fields))


def entries(*events: Event | Unknown, first: int = 1) -> list[Recorded]:
    """Return `events` with their places in the log, `first` being that of the first."""
    raws = [event.raw if isinstance(event, Unknown) else encode(event) for event in events]
    return [Recorded(first + n, event, raw) for n, (event, raw) in enumerate(zip(events, raws, strict=True))]


def chat_request(text: str = "hello big world", **fields: Any) -> ChatRequest:
    """Return a conversation of one turn."""
    return ChatRequest(messages=(Message(role="user", content=text),), **fields)


def submit_job(text: str = "hello big world", **fields: Any) -> SubmitJob:
    """Return the order to run a chat later."""
    values = {"model": MODEL, "operation": "chat", "input": msgspec.Raw(msgspec.json.encode(chat_request(text)))}
    return SubmitJob(**(values | fields))


def _of_batch() -> dict[str, Any]:
    return {"id": new_id(), "at": AT, "batch_id": "batch_1"}


def _of_collection() -> dict[str, Any]:
    return {"id": new_id(), "at": AT, "collection": "default"}


def _common() -> dict[str, Any]:
    return {"id": new_id(), "at": AT, "job_id": JOB_ID}
