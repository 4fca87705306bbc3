"""The subscriptions actor: keeps the places of those who read the log by name and come back later.

Listens on  fusion.subscriptions.create, .list, .get, .delete
Owns        the durable consumers tier2_<name> of EVENTS
Never       keeps any state of its own, or reads for anybody: whoever subscribes pulls from the consumer
"""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import structlog

from actors.supervisor import Child
from bus.client import Bus
from bus.durable import create_durable, delete_durable, find_durable, list_durables
from bus.errors import RefusedError
from bus.events import pattern_of
from bus.messages.subscriptions import (
    CreateSubscription,
    DeleteSubscription,
    GetSubscription,
    ListSubscriptions,
    SubscriptionDeleted,
    SubscriptionList,
    SubscriptionReply,
)
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.streams import Json, stream_last_seq, stream_state
from bus.subjects import (
    CREATE_SUBSCRIPTION,
    DELETE_SUBSCRIPTION,
    GET_SUBSCRIPTION,
    LIST_SUBSCRIPTIONS,
    consumer_of_subscription,
)
from eventlog.schema import kinds

log = structlog.get_logger()

_EVENTS, _START, _NAME = "fusion_events", "fusion_start", "fusion_name"


class Subscriptions:
    """Answers for all subscriptions."""

    def __init__(self, bus: Bus) -> None:
        self._nc = bus.nc

    async def create(self, request: CreateSubscription, _: Caller) -> AsyncGenerator[SubscriptionReply]:
        """Make a subscription. The same once more changes nothing; its name with other wishes is a conflict."""
        events, start = _events(request), _start(request)
        consumer = consumer_of_subscription(request.name)
        config = _consumer(consumer, events) | await self._place(request)
        config["metadata"] = {_NAME: request.name, _EVENTS: " ".join(events), _START: start}
        if await create_durable(self._nc, "EVENTS", config):
            log.info("subscription.created", name=request.name, events=events, start=start)
        kept = await self._kept(request.name)
        _check_same(kept, events, start)
        yield await self._reply(kept)

    async def list(self, _request: ListSubscriptions, _: Caller) -> AsyncGenerator[SubscriptionList]:
        """Tell all subscriptions."""
        begins = (await stream_state(self._nc, "EVENTS"))["first_seq"]
        found = [
            each for each in await list_durables(self._nc, "EVENTS") if _NAME in each["config"].get("metadata", {})
        ]
        replies = [_reply(each, begins) for each in found]
        yield SubscriptionList(subscriptions=tuple(sorted(replies, key=lambda reply: reply.name)))

    async def get(self, request: GetSubscription, _: Caller) -> AsyncGenerator[SubscriptionReply]:
        """Tell about one."""
        yield await self._reply(await self._kept(request.name))

    async def delete(self, request: DeleteSubscription, _: Caller) -> AsyncGenerator[SubscriptionDeleted]:
        """Forget a subscription and its place."""
        await self._kept(request.name)
        await delete_durable(self._nc, "EVENTS", consumer_of_subscription(request.name))
        log.info("subscription.deleted", name=request.name)
        yield SubscriptionDeleted(name=request.name)

    async def _kept(self, name: str) -> Json:
        kept = await find_durable(self._nc, "EVENTS", consumer_of_subscription(name))
        if kept is None:
            raise RefusedError("subscription_not_found", f"There is no subscription '{name}'.", param="name")
        return kept

    async def _reply(self, kept: Json) -> SubscriptionReply:
        return _reply(kept, (await stream_state(self._nc, "EVENTS"))["first_seq"])

    async def _place(self, request: CreateSubscription) -> Json:
        if request.start_time is not None:
            return {"deliver_policy": "by_start_time", "opt_start_time": _utc(request.start_time)}
        if request.start == "all":
            return {"deliver_policy": "all"}
        # Not `new`, which the server does not let be rewound.
        seq = request.start_seq or await stream_last_seq(self._nc, "EVENTS") + 1
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": seq}


def _consumer(name: str, events: tuple[str, ...]) -> Json:
    return {
        "durable_name": name,
        "filter_subjects": [pattern_of(kind) for kind in events],
        # All up to the acknowledged one: a place is one number, and what comes again comes in order.
        "ack_policy": "all",
        "ack_wait": 60 * 10**9,
        "max_deliver": -1,
        "max_ack_pending": 1000,
    }


def _events(request: CreateSubscription) -> tuple[str, ...]:
    for index, kind in enumerate(request.events):
        if kind not in kinds():
            message = f"There are no events of the kind {kind[:80]!r}; there are: {', '.join(kinds())}."
            raise RefusedError("invalid_request", message, param=f"events[{index}]")
    return tuple(sorted(set(request.events)))


def _start(request: CreateSubscription) -> str:
    """Return where it starts, in words that are compared when it is created once more."""
    said = [name for name in ("start", "start_seq", "start_time") if getattr(request, name) is not None]
    if len(said) > 1:
        raise RefusedError("invalid_request", f"'{said[0]}' and '{said[1]}' cannot both be said.", param=said[1])
    if request.start_time is not None:
        return _utc(request.start_time)
    return str(request.start_seq) if request.start_seq is not None else request.start or "new"


def _check_same(kept: Json, events: tuple[str, ...], start: str) -> None:
    name, wanted, began = (kept["config"].get("metadata", {}).get(key) for key in (_NAME, _EVENTS, _START))
    if wanted != " ".join(events):
        message = f"The subscription '{name}' was created before with other events: {wanted}."
        raise RefusedError("conflict", message, param="events")
    if began != start:
        message = f"The subscription '{name}' was created before to start elsewhere: {began}."
        raise RefusedError("conflict", message, param="start")


def _reply(kept: Json, log_begins: int) -> SubscriptionReply:
    metadata = kept["config"]["metadata"]
    return SubscriptionReply(
        name=metadata[_NAME],
        events=tuple(metadata[_EVENTS].split()),
        start=metadata[_START],
        created_at=datetime.fromisoformat(kept["created"]),
        stream="EVENTS",
        consumer=kept["name"],
        position=kept["ack_floor"]["stream_seq"],
        pending=kept["num_pending"] + kept["num_ack_pending"],
        log_begins=log_begins,
    )


def _utc(at: datetime) -> str:
    if at.tzinfo is None:
        raise RefusedError("invalid_request", "The time has no zone; end it with Z for UTC.", param="start_time")
    try:
        return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except OverflowError as error:
        message = "'start_time' is no time in UTC that can be written."
        raise RefusedError("invalid_request", message, param="start_time") from error


def child(bus: Bus, instance: str) -> Child:
    """Return what the supervisor needs to run this actor."""

    async def run() -> None:
        subscriptions = Subscriptions(bus)
        info = ServiceInfo(
            name="fusion-subscriptions", instance=instance, description="Keeps the places of those who read the log"
        )
        endpoints = (
            Endpoint(CREATE_SUBSCRIPTION(), subscriptions.create),
            Endpoint(LIST_SUBSCRIPTIONS(), subscriptions.list),
            Endpoint(GET_SUBSCRIPTION(), subscriptions.get),
            Endpoint(DELETE_SUBSCRIPTION(), subscriptions.delete),
        )
        async with serving(bus, info, *endpoints):
            await asyncio.Event().wait()

    return Child("subscriptions", run)
