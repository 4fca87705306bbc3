"""The events of webhooks: one aggregate for each delivery, which is one event told to one address."""

from datetime import datetime

from msgspec import Struct


class WebhookScheduled(Struct, frozen=True, kw_only=True, tag_field="type", tag="webhook.scheduled"):
    """The event number `seq` of the log, of the kind `event`, is to be told to `url`.

    `webhook_id` is None for the `callback_url` of a job.
    """

    id: str
    at: datetime
    delivery_id: str
    event: str
    seq: int
    job_id: str
    url: str
    webhook_id: str | None = None
    v: int = 1


class WebhookFailed(Struct, frozen=True, kw_only=True, tag_field="type", tag="webhook.failed"):
    """Attempt number `attempt` did not get through; the next is in `delay` seconds. `status` is that of HTTP."""

    id: str
    at: datetime
    delivery_id: str
    attempt: int
    error: str
    delay: float
    status: int | None = None
    v: int = 1


class WebhookDelivered(Struct, frozen=True, kw_only=True, tag_field="type", tag="webhook.delivered"):
    """Attempt number `attempt` was answered with 2xx, after `seconds`."""

    id: str
    at: datetime
    delivery_id: str
    attempt: int
    status: int
    seconds: float
    v: int = 1


class WebhookAbandoned(Struct, frozen=True, kw_only=True, tag_field="type", tag="webhook.abandoned"):
    """No more attempts are made; `error` is why."""

    id: str
    at: datetime
    delivery_id: str
    attempt: int
    error: str
    status: int | None = None
    v: int = 1


WebhookEvent = WebhookScheduled | WebhookFailed | WebhookDelivered | WebhookAbandoned
