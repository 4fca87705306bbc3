"""/v1/responses, as OpenAI's clients speak it: answers that are kept, continued, and made in the background."""

import time
from functools import partial
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from bus.errors import RefusedError
from bus.ids import new_id
from bus.messages.chat import ChatRequest
from bus.messages.jobs import CancelJob, SubmitJob
from bus.messages.responses import DeleteResponse
from bus.subjects import CANCEL_JOB, CHAT, DELETE_RESPONSE, SUBMIT_JOB
from http_edge.context import BUS
from http_edge.generation import whole
from http_edge.keys import fingerprint
from http_edge.responses.background import answered
from http_edge.responses.body import Body, chat_request, naming_fields, refuse_contradictions
from http_edge.responses.items import Item, items
from http_edge.responses.stored import Record, earlier, find, keep, read
from http_edge.responses.stream import relay
from http_edge.responses.view import Response, begun
from http_edge.routing import asking, keep_loaded
from http_edge.wire import json_response, read_body, read_query


class Retrieve(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a client wants a response: never as a stream."""

    stream: Literal["false"] | None = None


class Page(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of the input items a client wants."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


class ItemPage(Struct, frozen=True, kw_only=True):
    """A part of the input items."""

    object: str = "list"
    data: tuple[Item, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(Struct, frozen=True, kw_only=True):
    """A response that nobody sees any more."""

    id: str
    object: str = "response"
    deleted: bool = True


async def create(request: web.Request) -> web.StreamResponse:
    """Answer at once, as a stream, or in the background."""
    body = await read_body(request, _body)
    refuse_contradictions(body)
    keep_loaded(request, body.ttl)
    own = items(body.input)
    message = chat_request(body, (*await earlier(request, body.previous_response_id), *own))
    response = begun(body, f"resp_{new_id()}")
    with naming_fields():
        if body.background:
            return await _submit(request, message, Record(input=own, response=response))
        async with asking(request, CHAT, body.model, "chat", message) as answer:
            response = replace(response, model=answer.model)
            if body.stream:
                return await relay(request, answer, response, partial(_keep, request, own))
            said = await whole(answer)
    response = answered(response, said, time.time())
    await _keep(request, own, response)
    return json_response(response)


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Tell what was answered, or how it stands in the background."""
    read_query(request, Retrieve)
    record = await read(request, await find(request, request.match_info["response_id"]))
    return json_response(record.response)


async def list_input(request: web.Request) -> web.StreamResponse:
    """List the items that the request brought, newest first unless asked otherwise."""
    page = read_query(request, Page)
    record = await read(request, await find(request, request.match_info["response_id"]))
    listed = record.input if page.order == "asc" else record.input[::-1]
    if page.after is not None:
        ids = [item.id for item in listed]
        if page.after not in ids:
            raise RefusedError("invalid_request", f"There is no item {page.after[:80]!r}.", param="after")
        listed = listed[ids.index(page.after) + 1 :]
    data = listed[: page.limit]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return json_response(ItemPage(data=data, first_id=first, last_id=last, has_more=len(listed) > len(data)))


async def cancel(request: web.Request) -> web.StreamResponse:
    """End a response in the background. One that has ended stays as it is."""
    found = await find(request, request.match_info["response_id"])
    if found.job_id is None:
        message = "Only a response in the background can be cancelled; another ends when its client leaves."
        raise RefusedError("invalid_request", message, param="response_id")
    await request.app[BUS].ask(CANCEL_JOB(), CancelJob(job_id=found.job_id))
    return json_response((await read(request, found)).response)


async def delete(request: web.Request) -> web.StreamResponse:
    """Let nobody see a response any more. One that is still to be made is not made."""
    found = await find(request, request.match_info["response_id"])
    await request.app[BUS].ask(DELETE_RESPONSE(), DeleteResponse(response_id=found.response_id))
    if found.job_id is not None:
        await request.app[BUS].ask(CANCEL_JOB(), CancelJob(job_id=found.job_id))
    return json_response(Deleted(id=found.response_id))


async def _submit(request: web.Request, message: ChatRequest, record: Record) -> web.StreamResponse:
    # The job first: without its response it only runs for nothing, the other way round nothing would ever run.
    job_id = f"job-{record.response.id.removeprefix('resp_')}"
    chat = Raw(msgspec.json.encode(message))
    submitted = SubmitJob(
        model=record.response.model, operation="chat", input=chat, job_id=job_id, key=fingerprint(request)
    )
    await request.app[BUS].ask(SUBMIT_JOB(), submitted)
    await keep(request, record, job_id)
    return json_response(record.response)


async def _keep(request: web.Request, own: tuple[Item, ...], response: Response) -> None:
    await keep(request, Record(input=own, response=response))


_body = msgspec.json.Decoder(Body)

ROUTES = [
    web.post("/v1/responses", create),
    web.get("/v1/responses/{response_id}", retrieve),
    web.delete("/v1/responses/{response_id}", delete),
    web.post("/v1/responses/{response_id}/cancel", cancel),
    web.get("/v1/responses/{response_id}/input_items", list_input),
]
