"""/api/subscriptions: readers of the log with a name, whose place is kept while they are away."""

from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct

from bus.durable import Taken, pull_batch, rewind
from bus.errors import RefusedError
from bus.messages.subscriptions import (
    ENDS,
    CreateSubscription,
    DeleteSubscription,
    GetSubscription,
    ListSubscriptions,
    Sequence,
    Start,
    SubscriptionName,
    SubscriptionReply,
)
from bus.streams import stream_last_seq
from bus.subjects import CREATE_SUBSCRIPTION, DELETE_SUBSCRIPTION, GET_SUBSCRIPTION, LIST_SUBSCRIPTIONS
from eventlog.events import Unknown
from http_edge.context import BUS
from http_edge.sse import event_stream
from http_edge.wire import json_response, path_id, read_body, read_query

NEUTRAL: dict[str, tuple[object, ...]] = {}

_STREAM = "text/event-stream"
# Seconds that one pull of a stream waits; the next follows at once.
_WAIT = 5.0


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reader wants, and from where."""

    name: SubscriptionName
    events: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    start: Start | None = None
    start_seq: Sequence | None = None
    start_time: datetime | None = None


class Batch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many events a reader wants at once, and for how many seconds it waits for the first."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    wait: Annotated[float, Meta(ge=0, le=30)] = 0.0


class AckBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All up to this sequence is done with."""

    seq: Sequence


class EventView(Struct, frozen=True, kw_only=True):
    """An event with its place in the log."""

    seq: int
    type: str
    event: Raw


class Events(Struct, frozen=True, kw_only=True):
    """What follows what was acknowledged."""

    events: tuple[EventView, ...]


async def create(request: web.Request) -> web.StreamResponse:
    """Create a subscription, or find the same."""
    body = await read_body(request, _body)
    message = CreateSubscription(
        name=body.name,
        events=body.events or ENDS,
        start=body.start,
        start_seq=body.start_seq,
        start_time=body.start_time,
    )
    reply = await request.app[BUS].ask(CREATE_SUBSCRIPTION(), message)
    return json_response(reply)


async def list_all(request: web.Request) -> web.StreamResponse:
    """List all subscriptions."""
    reply = await request.app[BUS].ask(LIST_SUBSCRIPTIONS(), ListSubscriptions())
    return json_response(reply)


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Tell about a subscription."""
    return json_response(await _found(request))


async def delete(request: web.Request) -> web.StreamResponse:
    """Delete a subscription, and its place."""
    reply = await request.app[BUS].ask(DELETE_SUBSCRIPTION(), DeleteSubscription(name=_name(request)))
    return json_response({"name": reply.name, "deleted": True})


async def events(request: web.Request) -> web.StreamResponse:
    """Give what follows what was acknowledged: a batch, or a stream when that is accepted."""
    if _STREAM in request.headers.get("Accept", ""):
        return await _stream(request)
    batch = read_query(request, Batch)
    kept = await _found(request)
    nc = request.app[BUS].nc
    await rewind(nc, kept.stream, kept.consumer)
    taken = await pull_batch(nc, kept.stream, kept.consumer, batch.limit, batch.wait)
    return json_response(Events(events=tuple(map(_view, taken))))


async def acknowledge(request: web.Request) -> web.StreamResponse:
    """Move the place of a subscription behind `seq`. What lies before the place by now changes nothing."""
    body = await read_body(request, _ack_body)
    kept = await _found(request)
    nc = request.app[BUS].nc
    if body.seq > kept.position:
        last = await stream_last_seq(nc, kept.stream)
        if body.seq > last:
            message = f"The log has only reached {last}, not yet {body.seq}."
            raise RefusedError("invalid_request", message, param="seq")
        await rewind(nc, kept.stream, kept.consumer, body.seq + 1)
    return json_response(await _found(request))


async def _stream(request: web.Request) -> web.StreamResponse:
    kept = await _found(request)
    async with event_stream(request) as stream:
        await stream.open()
        async for taken in _following(request, kept):
            frames = (_FRAME % (item.seq, _kind(item).encode(), item.raw) for item in taken)
            await stream.write(b"".join(frames))
        return stream.response


async def _following(request: web.Request, kept: SubscriptionReply) -> AsyncGenerator[list[Taken]]:
    """Give what follows, for ever, each event once; what the client has already heard of is left out."""
    nc = request.app[BUS].nc
    last = 0
    with suppress(ValueError):
        last = int(request.headers.get("Last-Event-ID", "0"))
    await rewind(nc, kept.stream, kept.consumer)
    while True:
        taken = await pull_batch(nc, kept.stream, kept.consumer, 100, _WAIT)
        fresh = [item for item in taken if item.seq > last]
        if fresh:
            last = fresh[-1].seq
            yield fresh


async def _found(request: web.Request) -> SubscriptionReply:
    return await request.app[BUS].ask(GET_SUBSCRIPTION(), GetSubscription(name=_name(request)))


def _name(request: web.Request) -> str:
    return path_id(request, "name", "subscription_not_found")


def _view(item: Taken) -> EventView:
    return EventView(seq=item.seq, type=_kind(item), event=Raw(item.raw))


def _kind(item: Taken) -> str:
    return item.event.kind if isinstance(item.event, Unknown) else str(type(item.event).__struct_config__.tag)


# The fields of an event stream, as HTML has them.
_FRAME = b"id: %d\nevent: %b\ndata: %b\n\n"

_body = msgspec.json.Decoder(Body)
_ack_body = msgspec.json.Decoder(AckBody)

ROUTES = [
    web.post("/api/subscriptions", create),
    web.get("/api/subscriptions", list_all),
    web.get("/api/subscriptions/{name}", retrieve),
    web.delete("/api/subscriptions/{name}", delete),
    web.get("/api/subscriptions/{name}/events", events),
    web.post("/api/subscriptions/{name}/ack", acknowledge),
]
