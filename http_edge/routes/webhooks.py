"""/api/mcp/webhook: who is told over HTTP what happens to jobs."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from bus.messages.webhooks import (
    ENDS,
    DeleteWebhook,
    DeliveryLimit,
    GetWebhook,
    ListDeliveries,
    ListWebhooks,
    Redeliver,
    RegisterWebhook,
    TryWebhook,
    WebhookEventKind,
    WebhookUrl,
)
from bus.subjects import (
    DELETE_WEBHOOK,
    GET_WEBHOOK,
    LIST_DELIVERIES,
    LIST_WEBHOOKS,
    REDELIVER,
    REGISTER_WEBHOOK,
    TEST_WEBHOOK,
)
from http_edge.context import BUS
from http_edge.wire import json_response, path_id, read_body, read_optional_body, read_query

# A test waits for the receiver, which has up to 30 s.
_TEST_PATIENCE = 40.0

NEUTRAL: dict[str, tuple[object, ...]] = {}


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to tell what."""

    url: WebhookUrl
    events: Annotated[tuple[WebhookEventKind, ...], Meta(min_length=1)] | None = None
    secret: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    description: Annotated[str, Meta(max_length=1000)] | None = None


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """There is nothing to say."""


class Last(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many of the last deliveries a client wants."""

    limit: DeliveryLimit = 20


async def register(request: web.Request) -> web.StreamResponse:
    """Register a webhook."""
    body = await read_body(request, _body)
    message = RegisterWebhook(
        url=body.url, events=body.events or ENDS, secret=body.secret, description=body.description or ""
    )
    reply = await request.app[BUS].ask(REGISTER_WEBHOOK(), message)
    return json_response(reply)


async def list_all(request: web.Request) -> web.StreamResponse:
    """List all webhooks."""
    reply = await request.app[BUS].ask(LIST_WEBHOOKS(), ListWebhooks())
    return json_response(reply)


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Tell about a webhook."""
    reply = await request.app[BUS].ask(GET_WEBHOOK(), GetWebhook(webhook_id=_webhook_id(request)))
    return json_response(reply)


async def delete(request: web.Request) -> web.StreamResponse:
    """Delete a webhook."""
    reply = await request.app[BUS].ask(DELETE_WEBHOOK(), DeleteWebhook(webhook_id=_webhook_id(request)))
    return json_response({"webhook_id": reply.webhook_id, "deleted": True})


async def test(request: web.Request) -> web.StreamResponse:
    """Send a test, and tell how that went."""
    await read_optional_body(request, _nothing)
    message = TryWebhook(webhook_id=_webhook_id(request))
    reply = await request.app[BUS].ask(TEST_WEBHOOK(), message, patience=_TEST_PATIENCE)
    return json_response(reply)


async def deliveries(request: web.Request) -> web.StreamResponse:
    """List the last deliveries to a webhook."""
    last = read_query(request, Last)
    message = ListDeliveries(webhook_id=_webhook_id(request), limit=last.limit)
    reply = await request.app[BUS].ask(LIST_DELIVERIES(), message)
    return json_response(reply)


async def redeliver(request: web.Request) -> web.StreamResponse:
    """Begin anew with a delivery that has ended."""
    await read_optional_body(request, _nothing)
    delivery_id = path_id(request, "delivery_id", "webhook_not_found")
    message = Redeliver(webhook_id=_webhook_id(request), delivery_id=delivery_id)
    reply = await request.app[BUS].ask(REDELIVER(), message)
    return json_response(reply)


def _webhook_id(request: web.Request) -> str:
    return path_id(request, "webhook_id", "webhook_not_found")


_body = msgspec.json.Decoder(Body)
_nothing = msgspec.json.Decoder(Nothing)

ROUTES = [
    web.post("/api/mcp/webhook", register),
    web.get("/api/mcp/webhook", list_all),
    web.get("/api/mcp/webhook/{webhook_id}", retrieve),
    web.delete("/api/mcp/webhook/{webhook_id}", delete),
    web.post("/api/mcp/webhook/{webhook_id}/test", test),
    web.get("/api/mcp/webhook/{webhook_id}/deliveries", deliveries),
    web.post("/api/mcp/webhook/{webhook_id}/deliveries/{delivery_id}/redeliver", redeliver),
]
