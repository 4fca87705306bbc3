"""The streams: kept as asked, and one write for the log and the queue."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.aio.client import Client

from bus.client import settled
from bus.durable import ensure_durable, find_durable, pull_batch
from bus.errors import LostError
from bus.events import EventLog
from bus.pull import Delivery, pull_one
from bus.streams import (
    StreamError,
    api,
    differences,
    ensure_consumer,
    ensure_stream,
    ensure_streams,
    events_stream,
    first_seq_since,
    jobs_stream,
    purge_job,
    queue_consumer,
    queued_jobs,
    stream_fill,
    stream_last_seq,
    stream_state,
)
from tests.support import make
from tests.support.nats import Server, connected, plain_client, until, until_it


async def test_streams_may_be_ensured_again(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        await EventLog(bus).record(make.job_queued())
        await ensure_streams(bus.nc, keep_days=7)

        assert await stream_last_seq(bus.nc, "EVENTS") == 1


async def test_answer_that_was_lost_with_its_server_is_asked_for_again(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        await server.freeze()
        asking = asyncio.create_task(api(bus.nc, "STREAM.INFO.EVENTS", wait=15))
        await until(lambda: bus.nc._resp_map)
        await server.kill()
        await server.start()
        answer = await asking

    assert answer["config"]["name"] == "EVENTS"


async def test_stream_that_is_not_there_is_unavailable(server: Server) -> None:
    async with connected(server.url) as bus:
        for ask in (stream_state, stream_last_seq, stream_fill):
            with pytest.raises(LostError, match="EVENTS: stream not found") as lost:
                await ask(bus.nc, "EVENTS")

            assert lost.value.code == "unavailable"


async def test_pull_that_was_lost_with_its_server_ends(server: Server) -> None:
    async def is_waiting() -> bool:
        kept = await find_durable(bus.nc, "EVENTS", "d")
        return kept is not None and kept["num_waiting"] == 1

    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        await ensure_durable(bus.nc, "EVENTS", queue_consumer("d", "fusion.event.>"))
        pulling = asyncio.create_task(pull_batch(bus.nc, "EVENTS", "d", 10, wait=600))
        await until_it(is_waiting)
        await server.kill()
        await server.start()
        with pytest.raises(LostError) as lost:
            async with asyncio.timeout(60):
                await pulling

    assert lost.value.code == "unavailable"


async def test_changed_setting_is_taken_over(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        await ensure_streams(bus.nc, keep_days=3)
        answer = await api(bus.nc, "STREAM.INFO.EVENTS")

    assert answer["config"]["max_age"] == 3 * 24 * 3600 * 10**9


async def test_setting_that_the_server_will_not_change_is_an_error(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_stream(bus.nc, {"name": "S", "subjects": ["s"], "storage": "file"})
        with pytest.raises(StreamError, match="S: "):
            await ensure_stream(bus.nc, {"name": "S", "subjects": ["s"], "storage": "memory"})


async def test_server_keeps_every_setting_of_ours(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        events = await api(bus.nc, "STREAM.INFO.EVENTS")
        jobs = await api(bus.nc, "STREAM.INFO.JOBS")

    assert differences(events_stream(7), events["config"]) == []
    assert differences(jobs_stream(), jobs["config"]) == []


@pytest.mark.parametrize(
    ("wanted", "kept", "found"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, []),
        ({"a": 1}, {}, ["a: asked 1, kept None"]),
        ({"a": {"b": True}}, {"a": {"b": False}}, ["a.b: asked True, kept False"]),
        ({"a": {"b": 1}}, {}, ["a: asked {'b': 1}, kept None"]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, []),
        ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, ["a.b: asked 1, kept None"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a: asked [1], kept [1, 2]"]),
        ({"a": 1}, {"a": 2}, ["a: asked 1, kept 2"]),
    ],
)
def test_what_an_old_server_drops_is_named(wanted: dict[str, Any], kept: dict[str, Any], found: list[str]) -> None:
    assert differences(wanted, kept) == found


async def test_one_write_is_the_event_and_the_queued_job_and_is_told_on_the_feed_and_to_workers(
    server: Server,
) -> None:
    async with connected(server.url) as bus, plain_client(server.url) as nc:
        await ensure_streams(bus.nc, keep_days=7)
        wanted = queue_consumer("high", "fusion.queue.high.local/tiny-1%2E5.>")
        await ensure_consumer(bus.nc, "JOBS", wanted)
        feed, wake = await nc.subscribe("fusion.feed.>"), await nc.subscribe("fusion.wake.>")
        await settled(nc)
        await EventLog(bus).record_next(make.job_queued(priority="high"), after=0)
        fed, woken = await feed.next_msg(timeout=60), await wake.next_msg(timeout=60)
        delivery = await pull_until_there(bus.nc, "high")
        again = await pull_one(bus.nc, "JOBS", "high")
        jobs = await api(bus.nc, "STREAM.INFO.JOBS")

    assert fed.subject == "fusion.feed.job.job-1.queued.high.local/tiny-1%2E5"
    assert fed.headers is not None
    assert fed.headers["Nats-Sequence"] == "1"
    assert woken.subject == "fusion.wake.high.local/tiny-1%2E5.job-1"
    assert woken.data == b""
    assert delivery.subject == "fusion.queue.high.local/tiny-1%2E5.job-1"
    assert again is None
    assert jobs["state"]["messages"] == 1


async def test_event_that_is_no_new_job_is_not_queued(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        await log.record(make.job_started())
        await log.record(make.request_finished())
        await log.record(make.job_queued())
        wanted = queue_consumer("normal", "fusion.queue.normal.>")
        await ensure_consumer(bus.nc, "JOBS", wanted)
        first = await pull_until_there(bus.nc, "normal")
        jobs = await api(bus.nc, "STREAM.INFO.JOBS")

    assert first.subject.endswith(".job-1")
    assert jobs["state"]["messages"] == 1


async def test_consumer_whose_ack_wait_changed_is_brought_to_it(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        await ensure_consumer(bus.nc, "JOBS", queue_consumer("normal", "fusion.queue.normal.>", 30))
        await ensure_consumer(bus.nc, "JOBS", queue_consumer("normal", "fusion.queue.normal.>", 0.5))
        answer = await api(bus.nc, "CONSUMER.INFO.JOBS.normal")

    assert answer["config"]["ack_wait"] == 500_000_000
    assert answer["config"]["max_deliver"] == -1


async def pull_until_there(nc: Client, durable: str) -> Delivery:
    found: list[Delivery | None] = []

    async def pull() -> bool:
        found.append(await pull_one(nc, "JOBS", durable))
        return found[-1] is not None

    await until_it(pull)
    assert found[-1] is not None
    return found[-1]


async def test_job_that_is_not_on_the_queue_yet_is_taken_off_it(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        for number in range(50):
            await log.record(make.job_queued(job_id=f"job-{number}"))
            await purge_job(bus.nc, f"job-{number}")

        assert await stream_last_seq(bus.nc, "JOBS") == 0
        assert (await api(bus.nc, "STREAM.INFO.JOBS"))["state"]["last_seq"] == 50


async def test_queued_jobs_and_the_recent_events_are_found(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        empty = await queued_jobs(bus.nc), await first_seq_since(bus.nc, "EVENTS", make.AT)
        log = EventLog(bus)
        await log.record(make.request_finished())
        for number in range(3):
            await log.record(make.job_queued(job_id=f"job-{number}"))

        async def are_queued() -> bool:
            return await stream_last_seq(bus.nc, "JOBS") == 3

        await until_it(are_queued)
        await purge_job(bus.nc, "job-0")
        queued = await queued_jobs(bus.nc)
        recent = await first_seq_since(bus.nc, "EVENTS", make.AT)
        later = await first_seq_since(bus.nc, "EVENTS", datetime.now(UTC) + timedelta(hours=1))
        full = await stream_fill(bus.nc, "EVENTS")

    assert empty == ([], None)
    assert (sorted(queued), recent, later) == (["job-1", "job-2"], 1, None)
    assert 0 < full < 0.001
