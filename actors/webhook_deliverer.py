"""Delivers webhooks: takes them from the queue, sends them, and records how each attempt went.

The queue keeps what is due later, through restarts of the server and of this process.
"""

import asyncio
import random
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

import structlog
from msgspec import Struct
from structlog.contextvars import bound_contextvars

from actors.webhook_address import Addresses
from actors.webhook_body import body_of, trial_body
from actors.webhook_client import post
from actors.webhook_deliveries import Deliveries
from actors.webhook_hosts import Hosts
from actors.webhook_registry import Registry, Webhook
from actors.webhook_signature import key_of, signed_headers
from bus.client import Bus
from bus.durable import Taken, ensure_durable, pull_batch
from bus.errors import BusError, ConflictError
from bus.events import EventLog
from bus.ids import new_id
from bus.pull import Delivery as Handed
from bus.streams import Json
from eventlog.events import Unknown
from eventlog.job import Stamp, fold
from eventlog.webhook import Answer, Delivery, abandoned, decide_next
from eventlog.webhook_events import WebhookDelivered, WebhookFailed, WebhookScheduled

log = structlog.get_logger()

_DURABLE = "deliveries"
_WAIT = 5.0
_PAUSE = 1.0
_AT_ONCE = 16
_LONGEST_TEST = 30.0


class DelivererConfig(Struct, frozen=True, kw_only=True):
    """How deliveries are made: `timeout` is for one attempt, `delays` before each further one, all in seconds.

    `callback_secret` signs what goes to the `callback_url` of a job.
    """

    timeout: float
    callback_secret: str
    delays: tuple[float, ...]


def deliverer_consumer(timeout: float) -> Json:
    """Return the configuration of the durable: what is due later counts as handed out, so there is no limit of that."""
    return {
        "durable_name": _DURABLE,
        "ack_policy": "explicit",
        "ack_wait": int((timeout + 10) * 10**9),
        "max_deliver": -1,
        "max_ack_pending": -1,
        "deliver_policy": "all",
    }


class Deliverer:
    """Makes the attempts, up to 16 at once."""

    def __init__(
        self, bus: Bus, registry: Registry, deliveries: Deliveries, addresses: Addresses, config: DelivererConfig
    ) -> None:
        self._nc = bus.nc
        self._log = EventLog(bus)
        self._registry = registry
        self._deliveries = deliveries
        self._addresses = addresses
        self._config = config
        self._hosts = Hosts()

    async def run(self) -> None:
        """Deliver for ever. When cancelled, what is under way goes back to the queue."""
        await ensure_durable(self._nc, "DELIVERIES", deliverer_consumer(self._config.timeout))
        places = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await places.acquire()
                task = group.create_task(self._take(await self._next()))
                task.add_done_callback(lambda _: places.release())

    async def test(self, webhook: Webhook) -> Answer:
        """Send a `webhook.test` now; nothing is recorded."""
        at = datetime.now(UTC)
        return await self._send(
            webhook.url,
            new_id("delivery"),
            webhook.secret,
            trial_body(webhook.webhook_id, at),
            min(self._config.timeout, _LONGEST_TEST),
        )

    async def _next(self) -> Taken:
        while True:
            try:
                for item in await pull_batch(self._nc, "DELIVERIES", _DURABLE, 1, _WAIT):
                    return item
            except BusError as error:
                log.warning("webhooks.waiting", error=str(error))
                await asyncio.sleep(_PAUSE)

    async def _take(self, item: Taken) -> None:
        handed, event = item.delivery, item.event
        if not isinstance(event, WebhookScheduled):
            await handed.ack()  # Of a version that this one cannot read.
            return
        host = urlsplit(event.url).netloc.lower()
        busy = self._hosts.enter(host, event.delivery_id)
        if busy is not None:
            await handed.nak(busy)
            return
        begun = time.monotonic()
        try:
            await self._try(event.delivery_id, handed)
        finally:
            self._hosts.leave(host, time.monotonic() - begun)

    async def _try(self, delivery_id: str, handed: Handed) -> None:
        with bound_contextvars(delivery_id=delivery_id):
            try:
                delay = await self._deliver(delivery_id)
            except asyncio.CancelledError:
                await handed.nak(0)
                raise
            except ConflictError:
                delay = 0.0  # Something else was recorded meanwhile: look again.
            except BusError as error:
                log.warning("webhook.dropped", error=str(error))
                return  # The log is out of reach, or full; it comes again after the ack wait.
            if delay is None:
                await handed.ack()
            else:
                await handed.nak(delay)

    async def _deliver(self, delivery_id: str) -> float | None:
        """Return after how many seconds it is to be handed out again; None when that is not needed any more.

        1. It has ended: never.
        2. Its time has not come: then.
        3. Its webhook is gone, or its job: abandoned.
        4. Make the attempt, and record how it went.
        """
        delivery, last = await self._deliveries.find(delivery_id)
        if delivery is None or delivery.is_final:  # 1
            return None
        early = (delivery.due_at - datetime.now(UTC)).total_seconds()
        if early > 0:  # 2
            return early
        secret, body = self._secret(delivery), await self._body(delivery)
        if secret is None or body is None:  # 3
            why = "The job is not in the log any more." if secret else "The webhook is deleted or disabled."
            await self._deliveries.record_next(abandoned(delivery, why, _stamp()), after=last)
            return None
        answer = await self._send(delivery.url, delivery_id, secret, body, self._config.timeout)  # 4
        return await self._record(delivery, answer, last)

    async def _record(self, delivery: Delivery, answer: Answer, last: int) -> float | None:
        event = decide_next(
            delivery,
            answer,
            _stamp(),
            delays=self._config.delays,
            spread=random.random(),  # noqa: S311 - only spreads the load
        )
        await self._deliveries.record_next(event, after=last)
        webhook = self._registry.find(delivery.webhook_id or "")
        if answer.is_gone and webhook is not None:
            await self._registry.put(webhook.disabled())
            log.info("webhook.disabled", webhook_id=webhook.webhook_id)
        log.info(
            "webhook.attempted",
            attempt=event.attempt,
            status=answer.status,
            delivered=isinstance(event, WebhookDelivered),
        )
        return event.delay if isinstance(event, WebhookFailed) else None

    def _secret(self, delivery: Delivery) -> str | None:
        if delivery.webhook_id is None:
            return self._config.callback_secret
        webhook = self._registry.find(delivery.webhook_id)
        return webhook.secret if webhook is not None and webhook.status == "active" else None

    async def _body(self, delivery: Delivery) -> bytes | None:
        events = [item for item in await self._log.read_job(delivery.job_id) if item.seq <= delivery.seq]
        job = fold(item.event for item in events)
        if job is None or events[-1].seq != delivery.seq or isinstance(events[-1].event, Unknown):
            return None
        return body_of(job, delivery.event, events[-1].event.at)

    async def _send(self, url: str, delivery_id: str, secret: str, body: bytes, seconds: float) -> Answer:
        headers = signed_headers(key_of(secret), delivery_id, int(time.time()), body)
        return await post(self._addresses, url, headers, body, seconds)


def _stamp() -> Stamp:
    return Stamp(new_id(), datetime.now(UTC))
