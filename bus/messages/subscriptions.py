"""What is said with the subscriptions actor."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

SubscriptionName = Annotated[str, Meta(pattern=r"^[0-9A-Za-z_-]{1,64}\Z")]
# Numbers up to here are exact in every JSON.
Sequence = Annotated[int, Meta(ge=1, lt=2**53)]
Start = Literal["new", "all"]

ENDS = ("job.completed", "job.failed", "job.cancelled")


class CreateSubscription(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Keep the place of a reader of the log who wants these events, until the subscription is deleted.

    It starts with what comes from now on, with all that the log has, or at a sequence or a time; say one at most.
    """

    name: SubscriptionName
    events: Annotated[tuple[str, ...], Meta(min_length=1)] = ENDS
    start: Start | None = None
    start_seq: Sequence | None = None
    start_time: datetime | None = None


class ListSubscriptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell all subscriptions."""


class GetSubscription(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell about this subscription."""

    name: SubscriptionName


class DeleteSubscription(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Forget this subscription and its place."""

    name: SubscriptionName


class SubscriptionReply(Struct, frozen=True, kw_only=True):
    """A subscription: the durable `consumer` of `stream`.

    All up to `position`, a sequence of the log, is acknowledged; `pending` events are not. `log_begins` is the first
    sequence that the log still has: what is after `position` and before it is lost to this reader.
    """

    name: str
    events: tuple[str, ...]
    start: str
    created_at: datetime
    stream: str
    consumer: str
    position: int
    pending: int
    log_begins: int


class SubscriptionList(Struct, frozen=True, kw_only=True):
    """All subscriptions, by name."""

    subscriptions: tuple[SubscriptionReply, ...]


class SubscriptionDeleted(Struct, frozen=True, kw_only=True):
    """The subscription is no more."""

    name: str
