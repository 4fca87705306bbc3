"""The delivery of a webhook: what its events add up to."""

from datetime import datetime
from typing import Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from eventlog.webhook_events import (
    WebhookAbandoned,
    WebhookDelivered,
    WebhookEvent,
    WebhookFailed,
    WebhookScheduled,
)


class Delivery(Struct, frozen=True, kw_only=True):
    """One event that is told to one address. `http_status` is that of the last answer."""

    delivery_id: str
    webhook_id: str | None
    job_id: str
    event: str
    url: str
    scheduled_at: datetime
    status: Literal["pending", "delivered", "abandoned"] = "pending"
    attempts: int = 0
    http_status: int | None = None
    last_error: str | None = None
    ended_at: datetime | None = None


def apply(delivery: Delivery | None, event: WebhookEvent) -> Delivery | None:
    """Return `delivery` after `event`. Never raises: the fact has happened."""
    if delivery is None:
        return _scheduled(event) if isinstance(event, WebhookScheduled) else None
    if delivery.ended_at is not None:
        return delivery
    match event:
        case WebhookScheduled():
            return delivery
        case WebhookFailed():
            return replace(delivery, attempts=event.attempt, http_status=event.status, last_error=event.error)
        case WebhookDelivered():
            return replace(
                delivery, attempts=event.attempt, http_status=event.status, status="delivered", ended_at=event.at
            )
        case WebhookAbandoned():
            return replace(
                delivery,
                attempts=event.attempt,
                http_status=event.status,
                last_error=event.error,
                status="abandoned",
                ended_at=event.at,
            )
        case _:
            assert_never(event)


def _scheduled(event: WebhookScheduled) -> Delivery:
    return Delivery(
        delivery_id=event.delivery_id,
        webhook_id=event.webhook_id,
        job_id=event.job_id,
        event=event.event,
        url=event.url,
        scheduled_at=event.at,
    )
