"""One delivery of a webhook: what its events add up to, and what comes after an attempt.

    scheduled ──> delivered          an attempt was answered with 2xx
        │ ^  └──> abandoned          no more attempts are made
        └─┘ failed: the next attempt is due later

A delivery that has ended may be scheduled again, and begins anew with its first attempt.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from eventlog.events import Event, Unknown
from eventlog.job import Stamp
from eventlog.webhook_events import (
    WebhookAbandoned,
    WebhookDelivered,
    WebhookEvent,
    WebhookFailed,
    WebhookScheduled,
)

DeliveryStatus = Literal["pending", "delivered", "abandoned"]

# Seconds before each attempt after the first, as Standard Webhooks 1.0.0 recommends.
SCHEDULE = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)

_LONGEST = 86400.0
_GONE = 410


class Delivery(Struct, frozen=True, kw_only=True):
    """One event told to one address. `attempts` counts since it was last scheduled; `due_at` is for the next."""

    delivery_id: str
    event: str
    seq: int
    job_id: str
    url: str
    webhook_id: str | None
    scheduled_at: datetime
    due_at: datetime
    status: DeliveryStatus = "pending"
    attempts: int = 0
    attempted_at: datetime | None = None
    ended_at: datetime | None = None
    http_status: int | None = None
    last_error: str | None = None

    @property
    def is_final(self) -> bool:
        """Whether no attempt will be made."""
        return self.status != "pending"


class Answer(Struct, frozen=True, kw_only=True):
    """How an attempt went: the status of HTTP or, without one, the error. Times in seconds."""

    seconds: float
    status: int | None = None
    error: str = ""
    retry_after: float | None = None

    @property
    def is_success(self) -> bool:
        """Whether it was answered with 2xx; where a redirect leads is not looked at."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants nothing more, ever."""
        return self.status == _GONE


def fold(events: Iterable[Event | Unknown]) -> Delivery | None:
    """Return what the `events` of one delivery, oldest first, add up to."""
    delivery: Delivery | None = None
    for event in events:
        if isinstance(event, WebhookEvent):
            delivery = apply(delivery, event)
    return delivery


def apply(delivery: Delivery | None, event: WebhookEvent) -> Delivery | None:
    """Return `delivery` after `event`. Never raises: the fact has happened."""
    if isinstance(event, WebhookScheduled):
        return _scheduled(event)
    if delivery is None or delivery.is_final:
        return delivery
    tried = replace(delivery, attempts=event.attempt, attempted_at=event.at, http_status=event.status)
    match event:
        case WebhookFailed():
            return replace(tried, last_error=event.error, due_at=_later(event.at, event.delay))
        case WebhookDelivered():
            return replace(tried, status="delivered", ended_at=event.at)
        case WebhookAbandoned():
            return replace(tried, status="abandoned", ended_at=event.at, last_error=event.error)
        case _:
            assert_never(event)


def decide_next(
    delivery: Delivery, answer: Answer, stamp: Stamp, *, delays: tuple[float, ...], spread: float
) -> WebhookDelivered | WebhookFailed | WebhookAbandoned:
    """Return what is recorded after an attempt.

    1. It was answered with 2xx: delivered.
    2. The receiver wants nothing more (410), or there is no further delay: abandoned.
    3. The receiver said when to come again: then, but within a day.
    4. Else after the next of `delays`, 10 % sooner or later by `spread`, which is from 0 to 1.
    """
    attempt = delivery.attempts + 1
    error = answer.error or f"The answer was {answer.status}."
    if answer.is_success and answer.status is not None:  # 1
        return WebhookDelivered(
            id=stamp.id,
            at=stamp.at,
            delivery_id=delivery.delivery_id,
            attempt=attempt,
            status=answer.status,
            seconds=answer.seconds,
        )
    if answer.is_gone or attempt > len(delays):  # 2
        return abandoned(delivery, error, stamp, attempt=attempt, status=answer.status)
    if answer.retry_after is not None:  # 3
        delay = min(max(answer.retry_after, 1.0), _LONGEST)
    else:  # 4
        delay = delays[attempt - 1] * (0.9 + 0.2 * spread)
    return WebhookFailed(
        id=stamp.id,
        at=stamp.at,
        delivery_id=delivery.delivery_id,
        attempt=attempt,
        error=error,
        delay=delay,
        status=answer.status,
    )


def abandoned(
    delivery: Delivery, error: str, stamp: Stamp, *, attempt: int | None = None, status: int | None = None
) -> WebhookAbandoned:
    """Return the event that ends `delivery` because of `error`; without a number, no further attempt was made."""
    return WebhookAbandoned(
        id=stamp.id,
        at=stamp.at,
        delivery_id=delivery.delivery_id,
        attempt=delivery.attempts if attempt is None else attempt,
        error=error,
        status=status,
    )


def _later(at: datetime, delay: float) -> datetime:
    with suppress(OverflowError):  # At the end of time it is due at once.
        return at + timedelta(seconds=max(min(delay, _LONGEST), 0.0))
    return at


def _scheduled(event: WebhookScheduled) -> Delivery:
    return Delivery(
        delivery_id=event.delivery_id,
        event=event.event,
        seq=event.seq,
        job_id=event.job_id,
        url=event.url,
        webhook_id=event.webhook_id,
        scheduled_at=event.at,
        due_at=event.at,
    )
