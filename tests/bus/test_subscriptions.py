"""Subscriptions: readers of the log who come back later."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bus.client import Bus
from bus.durable import pull_batch, rewind
from bus.errors import RefusedError
from bus.messages.subscriptions import (
    CreateSubscription,
    DeleteSubscription,
    GetSubscription,
    ListSubscriptions,
    SubscriptionReply,
)
from bus.subjects import CREATE_SUBSCRIPTION, DELETE_SUBSCRIPTION, GET_SUBSCRIPTION, LIST_SUBSCRIPTIONS
from tests.support import make
from tests.support.jobs import Chat, living, world
from tests.support.nats import Server, connected, plain_client
from tests.support.subscriptions import subscribing

JOBS = 50


async def create(bus: Bus, **fields: Any) -> SubscriptionReply:
    return await bus.ask(CREATE_SUBSCRIPTION(), CreateSubscription(**({"name": "lab"} | fields)))


async def test_fifty_ends_that_were_missed_come_in_order_and_once_to_a_careful_reader(
    server: Server, tmp_path: Path
) -> None:
    read: list[tuple[int, str]] = []
    async with world(server, tmp_path, Chat()) as fusion, subscribing(fusion.bus), living(fusion.worker(concurrency=8)):
        kept = await create(fusion.bus)
        await fusion.submit(job_id="job-before")
        await fusion.ended("job-before")
        async with plain_client(server.url) as nc:
            subscription = await nc.jetstream().pull_subscribe_bind(kept.consumer, stream=kept.stream)
            [first] = await subscription.fetch(1, timeout=60)
            await first.ack_sync()

        for number in range(JOBS):
            await fusion.submit(job_id=f"job-{number}")
        for number in range(JOBS):
            await fusion.ended(f"job-{number}")
        # The first reader dies with what it was given in its hands; the second begins behind what was acknowledged.
        async with connected(server.url) as bus:
            dropped = await pull_batch(bus.nc, kept.stream, kept.consumer, 20, 1)
        async with connected(server.url) as bus:
            await rewind(bus.nc, kept.stream, kept.consumer)
            while len(read) < JOBS:
                taken = await pull_batch(bus.nc, kept.stream, kept.consumer, 15, 10)
                read += [(item.seq, item.event.job_id) for item in taken if item.seq > (read[-1][0] if read else 0)]
                await taken[-1].delivery.ack()
            left = await pull_batch(bus.nc, kept.stream, kept.consumer, 1, 0)

    assert len(dropped) == 20
    assert [seq for seq, _ in read] == sorted(seq for seq, _ in read)
    assert sorted(job_id for _, job_id in read) == sorted(f"job-{number}" for number in range(JOBS))
    assert left == []


async def test_same_subscription_once_more_keeps_its_place_and_another_of_its_name_is_a_conflict(
    server: Server, tmp_path: Path
) -> None:
    async with world(server, tmp_path) as fusion, subscribing(fusion.bus):
        first = await create(fusion.bus, events=("job.queued", "job.failed"))
        await fusion.submit()
        wished = (create(fusion.bus, events=("job.failed", "job.queued")) for _ in range(5))
        again = (await asyncio.gather(*wished))[-1]
        refused = []
        for fields in ({"events": ("job.queued",)}, {"events": ("job.queued", "job.failed"), "start": "all"}):
            with pytest.raises(RefusedError) as error:
                await create(fusion.bus, **fields)
            refused.append((error.value.code, error.value.failure.param))
        await fusion.bus.ask(DELETE_SUBSCRIPTION(), DeleteSubscription(name="lab"))
        with pytest.raises(RefusedError) as gone:
            await fusion.bus.ask(GET_SUBSCRIPTION(), GetSubscription(name="lab"))
        at_once = await asyncio.gather(*(create(fusion.bus, name="both") for _ in range(5)))
        await fusion.bus.ask(DELETE_SUBSCRIPTION(), DeleteSubscription(name="both"))
        listed = await fusion.bus.ask(LIST_SUBSCRIPTIONS(), ListSubscriptions())

    assert (first.consumer, first.stream, first.pending) == ("tier2_lab", "EVENTS", 0)
    assert (again.created_at, again.pending) == (first.created_at, 1)
    assert refused == [("conflict", "events"), ("conflict", "start")]
    assert len({each.created_at for each in at_once}) == 1
    assert gone.value.code == "subscription_not_found"
    assert listed.subscriptions == ()


async def test_subscription_starts_where_it_is_asked_to(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion, subscribing(fusion.bus):
        for number in range(3):
            await fusion.log.record(make.job_queued(job_id=f"job-{number}"))
        hour_ago = make.datetime.now(make.UTC) - timedelta(hours=1)
        pending = {}
        for name, fields in {
            "new": {},
            "all": {"start": "all"},
            "second": {"start_seq": 2},
            "hour": {"start_time": hour_ago},
        }.items():
            pending[name] = (await create(fusion.bus, name=name, events=("job.queued",), **fields)).pending
            await rewind(fusion.bus.nc, "EVENTS", f"tier2_{name}", 4)

    assert pending == {"new": 0, "all": 3, "second": 2, "hour": 3}


BAD_WISHES: list[tuple[dict[str, Any], str]] = [
    ({"events": ("job.completed", "job.exploded")}, "events[1]"),
    ({"start": "all", "start_seq": 3}, "start_seq"),
    ({"start_time": make.AT.replace(tzinfo=None)}, "start_time"),
    ({"start_time": make.datetime.fromisoformat("0001-01-01T00:00:00+14:00")}, "start_time"),
]


async def test_wish_that_cannot_be_met_is_refused_by_name(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion, subscribing(fusion.bus):
        for fields, param in BAD_WISHES:
            with pytest.raises(RefusedError) as refused:
                await create(fusion.bus, **fields)

            assert (refused.value.code, refused.value.failure.param) == ("invalid_request", param)
