"""POST /api/rag/ingest, and /rag_upsert: documents into a collection, as a job."""

from datetime import datetime

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from bus.errors import LostError, RefusedError
from bus.messages.jobs import JobReply, SubmitJob
from bus.messages.rag_documents import DocumentOutcome, IngestResult
from eventlog.job import JobStatus
from http_edge.errors import ErrorBody, code_of
from http_edge.keys import fingerprint
from http_edge.portions import naming
from http_edge.rag import require_rag
from http_edge.rag_documents import Ingest, read_documents
from http_edge.routes.jobs import accepted
from http_edge.submitting import ended, job_id_of, result_of, submitted
from http_edge.wire import json_response

# All that was given is wrong, and the form of the request is not.
_NOTHING_STORED = 422


class Accepted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that stores documents, as POST /v1/jobs tells of it; `status_url` is where it is told how it stands."""

    job_id: str
    status: JobStatus
    created_at: datetime
    estimated_completion_ms: int | None
    collection: str
    status_url: str
    events_url: str
    position: int | None = None


class Stored(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of the documents, in their order. `error` is there when none of them could be stored."""

    collection: str
    documents_ingested: int
    chunks_created: int
    embedding_time_ms: int
    documents: tuple[DocumentOutcome, ...]
    chunk_size: int
    overlap: int
    truncated_chunks: int
    job_id: str
    error: ErrorBody | None = None


async def ingest(request: web.Request) -> web.StreamResponse:
    """Accept documents; answer at once, or with `wait` when they are stored."""
    return await _ingest(request, waits=False)


async def upsert(request: web.Request) -> web.StreamResponse:
    """Do the same, and wait unless told otherwise."""
    return await _ingest(request, waits=True)


async def _ingest(request: web.Request, *, waits: bool) -> web.StreamResponse:
    await require_rag(request)
    asked = await read_documents(request)
    job = await _submit(request, asked)
    if waits if asked.wait is None else asked.wait:
        return await _stored(request, await ended(request, job.job_id), asked.param)
    told = accepted(job)
    url = f"/v1/jobs/{told.job_id}"
    answer = Accepted(
        job_id=told.job_id,
        status=told.status,
        created_at=told.created_at,
        estimated_completion_ms=told.estimated_completion_ms,
        collection=asked.message.collection,
        status_url=url,
        events_url=f"{url}/events",
        position=told.position,
    )
    return json_response(answer, 202)


async def _submit(request: web.Request, asked: Ingest) -> JobReply:
    message = SubmitJob(
        model="rag",
        operation="rag.ingest",
        input=Raw(msgspec.json.encode(asked.message)),
        metadata={"collection": asked.message.collection},
        job_id=job_id_of(request),
        key=fingerprint(request),
    )
    # What the documents say is in blobs, and only what is said about them can be too much for a message.
    with naming(lambda param: param.removeprefix("input."), too_large="metadata"):
        return await submitted(request, message)


async def _stored(request: web.Request, job: JobReply, param: str) -> web.Response:
    """Return what is told of a job that has ended. Raises `BusError` when it has not done what it should."""
    if job.status == "cancelled":
        raise RefusedError("cancelled", f"The job '{job.job_id}' was cancelled.")
    if job.status == "failed" and job.reason == "refused":
        param = job.error_param or param
        raise RefusedError(
            code_of(job.error_code or "invalid_request"), job.error or "The documents were refused.", param=param
        )
    if job.status == "failed":
        raise LostError("unavailable", f"The job '{job.job_id}' has failed: {job.error}", retry_after=1)
    result = await result_of(request, job)
    if result is None:
        raise RefusedError("conflict", f"The result of the job '{job.job_id}' is not kept any more.", param="job_id")
    told = _result.decode(result)
    failed = [one for one in told.documents if one.status == "failed"]
    is_nothing = len(failed) == len(told.documents)
    answer = Stored(
        collection=told.collection,
        documents_ingested=told.documents_ingested,
        chunks_created=told.chunks_created,
        embedding_time_ms=told.embedding_time_ms,
        documents=told.documents,
        chunk_size=told.chunk_size,
        overlap=told.overlap,
        truncated_chunks=told.truncated_chunks,
        job_id=job.job_id,
        error=_error(failed[0], param) if is_nothing else None,
    )
    return json_response(answer, _NOTHING_STORED if is_nothing else 200)


def _error(first: DocumentOutcome, param: str) -> ErrorBody:
    name = first.filename or first.document_id or "the first"
    message = f"None of the documents could be stored; {name}: {first.error}"
    return ErrorBody(message=message, type="invalid_request_error", param=param, code=first.code)


_result = msgspec.json.Decoder(IngestResult)

ROUTES = [web.post("/api/rag/ingest", ingest), web.post("/rag_upsert", upsert)]
