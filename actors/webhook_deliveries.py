"""The last deliveries of each webhook: a projection in memory of the log, whose only writer it is."""

from msgspec import Struct

from bus.events import EventLog
from bus.subjects import WEBHOOK_EVENTS, fill
from eventlog.events import Event, Unknown
from eventlog.webhook import Delivery, apply, fold
from eventlog.webhook_events import WebhookDelivered, WebhookEvent, WebhookScheduled

_MOST = 100


class _OfWebhook(Struct):
    """The last deliveries, by their ids, and how many attempts have failed since one got through."""

    deliveries: dict[str, Delivery] = {}
    failures: int = 0


class Deliveries:
    """All deliveries: reads them, records what happens to them, and remembers the last."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._webhooks: dict[str, _OfWebhook] = {}
        self._owners: dict[str, str] = {}

    async def read_all(self) -> None:
        """Take in what the log has. Raises `LostError`."""
        self._webhooks, self._owners = {}, {}
        for recorded in await self._log.read(WEBHOOK_EVENTS):
            self._remember(recorded.event)

    async def find(self, delivery_id: str) -> tuple[Delivery | None, int]:
        """Return the delivery from the log, None when it is not there, and the sequence of its last event."""
        recorded = await self._log.read(fill(WEBHOOK_EVENTS, delivery_id))
        return fold(item.event for item in recorded), recorded[-1].seq if recorded else 0

    async def record_next(self, event: WebhookEvent, *, after: int) -> None:
        """Record `event` behind its delivery's event number `after`. Raises as `EventLog.record_next` does."""
        await self._log.record_next(event, after=after)
        self._remember(event)

    def of(self, webhook_id: str) -> list[Delivery]:
        """Return the last deliveries to a webhook, the newest first."""
        kept = self._webhooks.get(webhook_id)
        return list(reversed(kept.deliveries.values())) if kept else []

    def failures(self, webhook_id: str) -> int:
        """Return how many attempts have failed since one got through."""
        kept = self._webhooks.get(webhook_id)
        return kept.failures if kept else 0

    def _remember(self, event: Event | Unknown) -> None:
        if not isinstance(event, WebhookEvent):
            return
        if isinstance(event, WebhookScheduled) and event.webhook_id is not None:
            self._owners[event.delivery_id] = event.webhook_id
        owner = self._owners.get(event.delivery_id)
        if owner is None:
            return  # The callback of a job: nobody can ask for it.
        kept = self._webhooks.setdefault(owner, _OfWebhook())
        delivery = apply(kept.deliveries.pop(event.delivery_id, None), event)
        if delivery is None:
            return
        kept.deliveries[event.delivery_id] = delivery
        if not isinstance(event, WebhookScheduled):
            kept.failures = 0 if isinstance(event, WebhookDelivered) else kept.failures + 1
        while len(kept.deliveries) > _MOST:
            oldest = next(iter(kept.deliveries))
            del kept.deliveries[oldest], self._owners[oldest]
