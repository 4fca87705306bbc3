"""The webhooks actor: keeps who wants to be told of jobs, and tells them.

Listens on  fusion.webhooks.register, .list, .get, .delete, .test, .deliveries, .redeliver
Owns        the bucket of webhooks and the events of their deliveries
Never       holds up a job, which knows nothing of it, or follows a redirect
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from actors.config import ActorsConfig
from actors.supervisor import Child, Restarts
from actors.webhook_address import Addresses
from actors.webhook_deliverer import Deliverer, DelivererConfig
from actors.webhook_deliveries import Deliveries
from actors.webhook_registry import Registry, Webhook
from actors.webhook_scheduler import Scheduler
from actors.webhook_signature import kept_secret, key_of, new_secret
from bus.client import Bus
from bus.errors import ConflictError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from bus.messages.webhooks import (
    DeleteWebhook,
    DeliveryList,
    DeliveryReply,
    GetWebhook,
    ListDeliveries,
    ListWebhooks,
    Redeliver,
    RegisterWebhook,
    TryWebhook,
    WebhookDeleted,
    WebhookList,
    WebhookReply,
    WebhookTried,
)
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.streams import deliveries_stream, ensure_stream, stream_last_seq
from bus.subjects import (
    DELETE_WEBHOOK,
    GET_WEBHOOK,
    LIST_DELIVERIES,
    LIST_WEBHOOKS,
    REDELIVER,
    REGISTER_WEBHOOK,
    TEST_WEBHOOK,
)
from eventlog.webhook import SCHEDULE, Delivery, fold
from eventlog.webhook_events import WebhookScheduled

log = structlog.get_logger()

# One message tells them all.
_MOST = 1000
_MOST_BYTES = 512 * 1024


class Webhooks:
    """Answers for all webhooks."""

    def __init__(
        self, bus: Bus, registry: Registry, deliveries: Deliveries, deliverer: Deliverer, addresses: Addresses
    ) -> None:
        self._nc = bus.nc
        self._registry = registry
        self._deliveries = deliveries
        self._deliverer = deliverer
        self._addresses = addresses

    async def register(self, request: RegisterWebhook, _: Caller) -> AsyncGenerator[WebhookReply]:
        """Keep a webhook, and answer when it is stored; a secret that was made is told this once."""
        self._addresses.refuse_url(request.url, "url")
        secret = request.secret or new_secret()
        key_of(secret)
        kept = self._registry.webhooks
        size = len(msgspec.json.encode(kept))
        if len(kept) >= _MOST or size > _MOST_BYTES:
            raise RefusedError("storage_full", f"There are {len(kept)} webhooks already, of {size} bytes.")
        webhook = Webhook(
            webhook_id=f"wh-{secrets.token_hex(8)}",
            url=request.url,
            events=tuple(dict.fromkeys(request.events)),
            secret=secret,
            status="active",
            created_at=datetime.now(UTC),
            since=await stream_last_seq(self._nc, "EVENTS"),
            description=request.description,
        )
        await self._registry.put(webhook)
        log.info("webhook.registered", webhook_id=webhook.webhook_id, events=webhook.events)
        yield self._reply(webhook, None if request.secret else secret)

    async def list(self, _request: ListWebhooks, _: Caller) -> AsyncGenerator[WebhookList]:
        """Tell all webhooks."""
        yield WebhookList(webhooks=tuple(map(self._reply, self._registry.webhooks)))

    async def get(self, request: GetWebhook, _: Caller) -> AsyncGenerator[WebhookReply]:
        """Tell about one."""
        yield self._reply(self._find(request.webhook_id))

    async def delete(self, request: DeleteWebhook, _: Caller) -> AsyncGenerator[WebhookDeleted]:
        """Forget a webhook and its secret; what was still to be told to it is abandoned when it is due."""
        webhook = self._find(request.webhook_id)
        await self._registry.delete(webhook.webhook_id)
        log.info("webhook.deleted", webhook_id=webhook.webhook_id)
        yield WebhookDeleted(webhook_id=webhook.webhook_id)

    async def test(self, request: TryWebhook, _: Caller) -> AsyncGenerator[WebhookTried]:
        """Send a test now, also to one that is disabled, and tell how that went."""
        webhook = self._find(request.webhook_id)
        answer = await self._deliverer.test(webhook)
        error = answer.error or f"The answer was {answer.status}."
        yield WebhookTried(
            webhook_id=webhook.webhook_id,
            delivered=answer.is_success,
            status=answer.status,
            seconds=round(answer.seconds, 3),
            error=None if answer.is_success else error,
        )

    async def deliveries(self, request: ListDeliveries, _: Caller) -> AsyncGenerator[DeliveryList]:
        """Tell the last deliveries to a webhook."""
        webhook = self._find(request.webhook_id)
        last = self._deliveries.of(webhook.webhook_id)[: request.limit]
        yield DeliveryList(deliveries=tuple(map(_view, last)))

    async def redeliver(self, request: Redeliver, _: Caller) -> AsyncGenerator[DeliveryReply]:
        """Schedule a delivery that has ended once more, under the same id, and answer when that is stored."""
        webhook = self._find(request.webhook_id)
        delivery, last = await self._deliveries.find(request.delivery_id)
        if delivery is None or delivery.webhook_id != webhook.webhook_id:
            message = f"There is no delivery '{request.delivery_id}' to this webhook."
            raise RefusedError("webhook_not_found", message, param="delivery_id")
        if webhook.status != "active":
            raise RefusedError("conflict", "The webhook is disabled: its receiver answered 410.", param="webhook_id")
        if not delivery.is_final:
            raise _still_trying(delivery)
        scheduled = WebhookScheduled(
            id=new_id(),
            at=datetime.now(UTC),
            delivery_id=delivery.delivery_id,
            event=delivery.event,
            seq=delivery.seq,
            job_id=delivery.job_id,
            url=webhook.url,
            webhook_id=webhook.webhook_id,
        )
        try:
            await self._deliveries.record_next(scheduled, after=last)
        except ConflictError as error:
            raise _still_trying(delivery) from error
        yield _view(fold([scheduled]) or delivery)

    def _find(self, webhook_id: str) -> Webhook:
        webhook = self._registry.find(webhook_id)
        if webhook is None:
            raise RefusedError("webhook_not_found", f"There is no webhook '{webhook_id}'.", param="webhook_id")
        return webhook

    def _reply(self, webhook: Webhook, secret: str | None = None) -> WebhookReply:
        attempted = (each.attempted_at for each in self._deliveries.of(webhook.webhook_id))
        return WebhookReply(
            webhook_id=webhook.webhook_id,
            url=webhook.url,
            status=webhook.status,
            events=webhook.events,
            created_at=webhook.created_at,
            failure_count=self._deliveries.failures(webhook.webhook_id),
            last_triggered_at=max((at for at in attempted if at is not None), default=None),
            description=webhook.description,
            secret=secret,
        )


def _still_trying(delivery: Delivery) -> RefusedError:
    return RefusedError("conflict", f"'{delivery.delivery_id}' is still being delivered.", param="delivery_id")


def _view(delivery: Delivery) -> DeliveryReply:
    return DeliveryReply(
        delivery_id=delivery.delivery_id,
        event=delivery.event,
        job_id=delivery.job_id,
        status=delivery.status,
        attempts=delivery.attempts,
        scheduled_at=delivery.scheduled_at,
        attempted_at=delivery.attempted_at,
        due_at=None if delivery.is_final else delivery.due_at,
        http_status=delivery.http_status,
        last_error=delivery.last_error,
    )


def child(bus: Bus, config: ActorsConfig, state: Path, instance: str, delays: tuple[float, ...] = SCHEDULE) -> Child:
    """Return what the supervisor needs to run this actor. `delays` are before each further attempt, in seconds."""

    async def run() -> None:
        addresses = Addresses(config.webhook_networks)
        kept = await asyncio.to_thread(kept_secret, state / "webhook_secret")
        settings = DelivererConfig(
            timeout=config.webhook_timeout,
            callback_secret=config.webhook_secret or kept,
            delays=delays[: config.webhook_retry_count],
        )
        await ensure_stream(bus.nc, deliveries_stream())
        registry, deliveries = Registry(bus), Deliveries(EventLog(bus))
        await registry.read()
        await deliveries.read_all()
        deliverer = Deliverer(bus, registry, deliveries, addresses, settings)
        webhooks = Webhooks(bus, registry, deliveries, deliverer, addresses)
        info = ServiceInfo(
            name="fusion-webhooks", instance=instance, description="Keeps webhooks and tells them what happens to jobs"
        )
        endpoints = (
            Endpoint(REGISTER_WEBHOOK(), webhooks.register),
            Endpoint(LIST_WEBHOOKS(), webhooks.list),
            Endpoint(GET_WEBHOOK(), webhooks.get),
            Endpoint(DELETE_WEBHOOK(), webhooks.delete),
            Endpoint(TEST_WEBHOOK(), webhooks.test),
            Endpoint(LIST_DELIVERIES(), webhooks.deliveries),
            Endpoint(REDELIVER(), webhooks.redeliver),
        )
        async with serving(bus, info, *endpoints), asyncio.TaskGroup() as group:
            group.create_task(Scheduler(bus, registry, deliveries).run(), name="webhooks/scheduler")
            group.create_task(deliverer.run(), name="webhooks/deliverer")

    # Whatever is wrong with webhooks, the core goes on without them.
    return Child("webhooks", run, restarts=Restarts(most=None))
