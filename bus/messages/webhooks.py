"""What is said with the webhooks actor."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from eventlog.webhook import DeliveryStatus

WebhookEventKind = Literal["job.queued", "job.started", "job.completed", "job.failed", "job.cancelled"]
WebhookStatus = Literal["active", "disabled"]
WebhookUrl = Annotated[str, Meta(min_length=1, max_length=2048)]
WebhookId = Annotated[str, Meta(min_length=1, max_length=100)]
DeliveryLimit = Annotated[int, Meta(ge=1, le=100)]

ENDS: tuple[WebhookEventKind, ...] = ("job.completed", "job.failed", "job.cancelled")


class RegisterWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tell these events to this address from now on. Without a `secret` one is made."""

    url: WebhookUrl
    events: Annotated[tuple[WebhookEventKind, ...], Meta(min_length=1)] = ENDS
    secret: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    description: Annotated[str, Meta(max_length=1000)] = ""


class ListWebhooks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell all webhooks."""


class GetWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell about this webhook."""

    webhook_id: WebhookId


class DeleteWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell this webhook nothing any more."""

    webhook_id: WebhookId


class TryWebhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send this webhook a `webhook.test` now, once."""

    webhook_id: WebhookId


class ListDeliveries(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tell the last deliveries to this webhook."""

    webhook_id: WebhookId
    limit: DeliveryLimit = 20


class Redeliver(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Begin anew with a delivery that has ended."""

    webhook_id: WebhookId
    delivery_id: WebhookId


class WebhookReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A webhook. `secret` is told once, to whoever has registered it without one.

    `last_triggered_at` is its last attempt, `failure_count` how many have failed since one got through.
    """

    webhook_id: str
    url: str
    status: WebhookStatus
    events: tuple[WebhookEventKind, ...]
    created_at: datetime
    failure_count: int
    last_triggered_at: datetime | None = None
    description: str = ""
    secret: str | None = None


class WebhookList(Struct, frozen=True, kw_only=True):
    """All webhooks, the oldest first."""

    webhooks: tuple[WebhookReply, ...]


class WebhookDeleted(Struct, frozen=True, kw_only=True):
    """The webhook is no more."""

    webhook_id: str


class WebhookTried(Struct, frozen=True, kw_only=True):
    """How the test went: the `status` of HTTP, how long it took, and why it did not get through, if so."""

    webhook_id: str
    delivered: bool
    status: int | None
    seconds: float
    error: str | None


class DeliveryReply(Struct, frozen=True, kw_only=True):
    """A delivery: `attempts` so far, and how the last went. `due_at` is when the next attempt is made."""

    delivery_id: str
    event: str
    job_id: str
    status: DeliveryStatus
    attempts: int
    scheduled_at: datetime
    attempted_at: datetime | None
    due_at: datetime | None
    http_status: int | None
    last_error: str | None


class DeliveryList(Struct, frozen=True, kw_only=True):
    """The last deliveries to one webhook, the newest first."""

    deliveries: tuple[DeliveryReply, ...]
