"""/v1/batches, as OpenAI's clients speak it: many requests in a file, done as jobs."""

import hashlib
import re
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from bus.errors import Code, RefusedError
from bus.messages.batches import BatchReply, CancelBatch, CreateBatch, GetBatch, ListBatches
from bus.subjects import CANCEL_BATCH, CREATE_BATCH, GET_BATCH, LIST_BATCHES
from eventlog.batch import BatchStatus
from eventlog.batch_events import LineError
from http_edge.batches.endpoints import ENDPOINTS
from http_edge.context import BUS
from http_edge.generation import refuse_unsupported
from http_edge.keys import fingerprint
from http_edge.wire import json_response, read_body, read_optional_body, read_query

# What a refusal is about, as the client has said it.
_PARAMS: dict[Code, str] = {"file_not_found": "input_file_id", "conflict": "Idempotency-Key"}

_BATCH_ID = re.compile(r"batch_[0-9A-Za-z]{1,40}")

# Files live as long as the log.
NEUTRAL: dict[str, tuple[object, ...]] = {"output_expires_after": ()}

MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=16)]


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends."""

    input_file_id: Annotated[str, Meta(min_length=1, max_length=100)]
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: Any = None


class Nothing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body that says nothing."""


class Page(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of the batches a client wants."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: str | None = None


class Counts(Struct, frozen=True, kw_only=True):
    """How many requests there are, and how many of them have done their work or failed at it."""

    total: int
    completed: int
    failed: int


class Errors(Struct, frozen=True, kw_only=True):
    """What is wrong with the input file."""

    object: Literal["list"] = "list"
    data: tuple[LineError, ...]


class Batch(Struct, frozen=True, kw_only=True):
    """OpenAI's batch. Times are in seconds since the epoch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: Errors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    metadata: dict[str, Any] | None


class BatchPage(Struct, frozen=True, kw_only=True):
    """A part of the batches, newest first."""

    object: Literal["list"] = "list"
    data: tuple[Batch, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


async def create(request: web.Request) -> web.StreamResponse:
    """Accept a batch, whose lines are looked at later. The same `Idempotency-Key` of a client is the same batch."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    if body.endpoint not in ENDPOINTS:
        reason = f"A batch cannot be for {body.endpoint[:80]!r}, only for {', '.join(ENDPOINTS)}."
        raise RefusedError("invalid_request", reason, param="endpoint")
    message = CreateBatch(
        input_file_id=body.input_file_id,
        endpoint=body.endpoint,
        completion_window=body.completion_window,
        metadata=body.metadata or {},
        batch_id=_id_of(request),
        key=fingerprint(request),
    )
    try:
        batch = await request.app[BUS].ask(CREATE_BATCH(), message)
    except RefusedError as error:
        param = _PARAMS.get(error.code)
        if param is None:
            raise
        raise RefusedError(error.code, str(error), param=param) from error
    return json_response(_batch(batch))


async def list_page(request: web.Request) -> web.StreamResponse:
    """List batches, newest first."""
    page = read_query(request, Page)
    reply = await request.app[BUS].ask(LIST_BATCHES(), ListBatches(limit=page.limit, after=page.after))
    data = tuple(map(_batch, reply.batches))
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return json_response(BatchPage(data=data, first_id=first, last_id=last, has_more=reply.has_more))


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Tell how a batch stands."""
    return json_response(_batch(await request.app[BUS].ask(GET_BATCH(), GetBatch(batch_id=_batch_id(request)))))


async def cancel(request: web.Request) -> web.StreamResponse:
    """End a batch; what is done by then is kept. One whose requests have all ended stays as it is."""
    await read_optional_body(request, _nothing)
    return json_response(_batch(await request.app[BUS].ask(CANCEL_BATCH(), CancelBatch(batch_id=_batch_id(request)))))


def _id_of(request: web.Request) -> str | None:
    named = request.headers.get("Idempotency-Key")
    if not named:
        return None
    # Bytes of a header that are no UTF-8 come as surrogates.
    digest = hashlib.sha256(f"{fingerprint(request)}\n{named}".encode(errors="surrogateescape"))
    return f"batch_{digest.hexdigest()[:32]}"


def _batch_id(request: web.Request) -> str:
    batch_id = request.match_info["batch_id"]
    if not _BATCH_ID.fullmatch(batch_id):
        raise RefusedError("batch_not_found", f"There is no batch {batch_id[:80]!r}.", param="batch_id")
    return batch_id


def _batch(batch: BatchReply) -> Batch:
    return Batch(
        id=batch.batch_id,
        endpoint=batch.endpoint,
        errors=Errors(data=batch.errors) if batch.errors else None,
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=batch.status,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=int(batch.created_at.timestamp()),
        in_progress_at=_seconds(batch.in_progress_at),
        expires_at=int(batch.expires_at.timestamp()),
        finalizing_at=_seconds(batch.finalizing_at),
        completed_at=_seconds(batch.completed_at),
        failed_at=_seconds(batch.failed_at),
        expired_at=_seconds(batch.expired_at),
        cancelling_at=_seconds(batch.cancelling_at),
        cancelled_at=_seconds(batch.cancelled_at),
        request_counts=Counts(total=batch.total, completed=batch.completed, failed=batch.failed),
        metadata=batch.metadata or None,
    )


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


_body = msgspec.json.Decoder(Body)
_nothing = msgspec.json.Decoder(Nothing)

ROUTES = [
    web.post("/v1/batches", create),
    web.get("/v1/batches", list_page),
    web.get("/v1/batches/{batch_id}", retrieve),
    web.post("/v1/batches/{batch_id}/cancel", cancel),
]
