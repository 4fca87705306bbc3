"""Keeps responses and finds them again. What was asked and answered is a blob; the actor knows its name."""

import re

import msgspec
from aiohttp import web
from msgspec import Struct

from bus.errors import RefusedError
from bus.messages.jobs import GetJob
from bus.messages.responses import GetResponse, PutResponse, ResponseReply
from bus.subjects import GET_JOB, GET_RESPONSE, PUT_RESPONSE
from http_edge.context import BLOBS, BUS
from http_edge.responses.background import as_job_stands
from http_edge.responses.items import Item
from http_edge.responses.view import Response

_ID = re.compile(r"resp_[0-9A-Za-z]{1,64}")


class Record(Struct, frozen=True, kw_only=True):
    """What is kept of a response. `input` is what this request brought, without the responses before it."""

    input: tuple[Item, ...]
    response: Response


async def keep(request: web.Request, record: Record, job_id: str | None = None) -> None:
    """Store `record`, unless its client has said not to. Returns when it is stored; raises as `Bus.ask` does."""
    response = record.response
    if not response.store:
        return
    message = PutResponse(
        response_id=response.id,
        model=response.model,
        status=response.status,
        body_blob=await request.app[BLOBS].put(msgspec.json.encode(record)),
        previous_response_id=response.previous_response_id,
        job_id=job_id,
    )
    await request.app[BUS].ask(PUT_RESPONSE(), message)


async def find(request: web.Request, response_id: str) -> ResponseReply:
    """Return what is known of a response. Raises `RefusedError` ("response_not_found")."""
    if not _ID.fullmatch(response_id):
        raise _unknown(response_id)
    return await request.app[BUS].ask(GET_RESPONSE(), GetResponse(response_id=response_id))


async def read(request: web.Request, found: ResponseReply) -> Record:
    """Return the record of a response that was found; one in the background as it stands now.

    Raises `RefusedError` ("response_not_found") when its content is gone, as it is after some days.
    """
    content = await request.app[BLOBS].get(found.body_blob)
    if content is None:
        raise _unknown(found.response_id)
    record = _record.decode(content)
    if found.job_id is None:
        return record
    job = await request.app[BUS].ask(GET_JOB(), GetJob(job_id=found.job_id))
    result = await request.app[BLOBS].get(job.result_blob) if job.result_blob else None
    return Record(input=record.input, response=as_job_stands(record.response, job, result))


async def earlier(request: web.Request, response_id: str | None) -> tuple[Item, ...]:
    """Return what was asked and answered up to the response `response_id`, oldest first.

    Raises `RefusedError` when that one, or one before it, is not there or has no answer.
    """
    turns: list[tuple[Item, ...]] = []
    while response_id is not None:
        record = await _previous(request, response_id)
        turns.append((*record.input, *record.response.output))
        response_id = record.response.previous_response_id
    return tuple(item for turn in reversed(turns) for item in turn)


async def _previous(request: web.Request, response_id: str) -> Record:
    try:
        record = await read(request, await find(request, response_id))
    except RefusedError as error:
        raise RefusedError(
            "previous_response_not_found",
            f"Previous response with id '{response_id[:80]}' not found.",
            param="previous_response_id",
        ) from error
    status = record.response.status
    if status not in {"completed", "incomplete"}:
        message = f"The previous response '{response_id}' is {status}; only one with an answer can be continued."
        raise RefusedError("invalid_request", message, param="previous_response_id")
    return record


def _unknown(response_id: str) -> RefusedError:
    return RefusedError("response_not_found", f"Response with id '{response_id[:80]}' not found.", param="response_id")


_record = msgspec.json.Decoder(Record)
