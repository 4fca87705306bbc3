"""Pulling jobs one by one, and reading the log in order."""

import asyncio
import time

import pytest
from nats.aio.client import Client

from bus.client import Bus
from bus.errors import LostError
from bus.events import EventLog, subject_of
from bus.pull import Delivery, LogReader, pull_one, reading_log
from bus.streams import api, ensure_consumer, ensure_streams, queue_consumer
from eventlog.events import JobQueued, Recorded, Unknown, encode
from eventlog.rag_events import DocumentStored
from tests.support import make
from tests.support.nats import Server, connected, until_it


async def queue(bus: Bus, *job_ids: str, ack_wait: float = 30.0) -> None:
    """Queue jobs, and wait until they are in the work queue."""
    await ensure_streams(bus.nc, keep_days=7)
    await ensure_consumer(bus.nc, "JOBS", queue_consumer("normal", "fusion.queue.normal.>", ack_wait))
    for job_id in job_ids:
        await EventLog(bus).record(make.job_queued(job_id=job_id))
    await until_it(lambda: queued(bus.nc, len(job_ids)))


async def queued(nc: Client, count: int) -> bool:
    return bool((await api(nc, "STREAM.INFO.JOBS"))["state"]["messages"] == count)


async def pull(bus: Bus) -> Delivery:
    found: list[Delivery | None] = []

    async def is_there() -> bool:
        found.append(await pull_one(bus.nc, "JOBS", "normal"))
        return found[-1] is not None

    await until_it(is_there)
    assert found[-1] is not None
    return found[-1]


async def fill_log(bus: Bus, count: int) -> None:
    """Append events quickly: JetStream answers each, which nobody waits for but the last."""
    await ensure_streams(bus.nc, keep_days=7)
    for number in range(1, count):
        event = make.job_queued(job_id=f"job-{number}")
        await bus.nc.publish(subject_of(event), encode(event))
    await EventLog(bus).record(make.job_queued(job_id=f"job-{count}"))


async def read(reader: LogReader, count: int) -> list[Recorded]:
    entries: list[Recorded] = []
    async with asyncio.timeout(60):
        while len(entries) < count:
            entries += await reader.batch(1000)
    return entries


def without_expiry(reader: LogReader) -> None:
    """Have a pull outlast the test: one that ends by itself would hide a reader that does not notice."""
    reader._EXPIRES = 60.0


def job_ids(entries: list[Recorded]) -> list[str]:
    return [entry.event.job_id for entry in entries if isinstance(entry.event, JobQueued)]


async def test_jobs_are_handed_out_one_by_one_in_order_and_then_none(server: Server) -> None:
    async with connected(server.url) as bus:
        await queue(bus, "job-1", "job-2")
        first, second = await pull(bus), await pull(bus)
        third = await pull_one(bus.nc, "JOBS", "normal")
        await first.ack()
        await second.ack()

        assert [first.subject[-5:], second.subject[-5:]] == ["job-1", "job-2"]
        assert third is None
        await until_it(lambda: queued(bus.nc, 0))


async def test_job_that_is_not_acknowledged_comes_again(server: Server) -> None:
    async with connected(server.url) as bus:
        await queue(bus, "job-1", ack_wait=0.2)
        await pull(bus)
        again = await pull(bus)

        assert again.subject.endswith("job-1")


async def test_job_in_progress_does_not_come_again(server: Server) -> None:
    async with connected(server.url) as bus:
        await queue(bus, "job-1", "job-2", ack_wait=3.0)
        kept, left = await pull(bus), await pull(bus)
        again: list[Delivery | None] = []

        async def comes_again() -> bool:
            await kept.in_progress()
            again.append(await pull_one(bus.nc, "JOBS", "normal"))
            return again[-1] is not None

        # Without the signs of life both would come again, the first one first.
        await until_it(comes_again)

        assert again[-1] is not None
        assert again[-1].subject == left.subject


async def test_job_given_back_comes_again_after_its_delay(server: Server) -> None:
    async with connected(server.url) as bus:
        await queue(bus, "job-1")
        delivery = await pull(bus)
        begun = time.monotonic()
        await delivery.nak(0.3)
        await pull(bus)
        took = time.monotonic() - begun

    assert took >= 0.3


async def test_queue_that_does_not_exist_is_lost(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        with pytest.raises(LostError) as lost:
            await pull_one(bus.nc, "JOBS", "nobody")

    assert lost.value.code == "unavailable"


async def test_acknowledging_while_the_server_is_away_is_survived(server: Server) -> None:
    async with connected(server.url) as bus:
        await queue(bus, "job-1", ack_wait=0.5)
        delivery = await pull(bus)
        await server.kill()
        await delivery.nak(1)
        await delivery.in_progress()
        await server.start()
        again = await pull(bus)

        assert again.subject.endswith("job-1")


async def test_log_is_read_in_order_behind_the_checkpoint(server: Server) -> None:
    async with connected(server.url) as bus:
        await fill_log(bus, 5000)
        async with reading_log(bus, after=1000) as reader:
            entries = await read(reader, 4000)

    assert [entry.seq for entry in entries] == list(range(1001, 5001))
    assert job_ids(entries) == [f"job-{n}" for n in range(1001, 5001)]


async def test_batch_has_no_more_than_its_limit_and_does_not_wait_for_it(server: Server) -> None:
    async with connected(server.url) as bus:
        await fill_log(bus, 25)
        async with reading_log(bus, after=0) as reader:
            sizes, total = [], 0
            while total < 25:
                sizes.append(len(await reader.batch(10)))
                total += sizes[-1]

    assert max(sizes) <= 10


async def test_reader_hears_of_new_events_while_it_waits(server: Server) -> None:
    async with connected(server.url) as bus:
        await fill_log(bus, 3)
        async with reading_log(bus, after=0) as reader:
            without_expiry(reader)
            await read(reader, 3)
            await EventLog(bus).record(make.job_queued(job_id="job-new"))
            entries = await read(reader, 1)

    assert job_ids(entries) == ["job-new"]


async def test_unreadable_event_is_read_as_unknown(server: Server) -> None:
    async with connected(server.url) as bus:
        await fill_log(bus, 1)
        await bus.nc.publish("fusion.event.strange", b"\xff")
        async with reading_log(bus, after=1) as reader:
            (entry,) = await read(reader, 1)

    assert entry == Recorded(2, Unknown(kind="", raw=b"\xff"), b"\xff")


async def test_reader_goes_on_after_the_server_was_killed(server: Server) -> None:
    async with connected(server.url, append_timeout=60) as bus:
        await fill_log(bus, 3)
        async with reading_log(bus, after=0) as reader:
            without_expiry(reader)
            await read(reader, 3)
            await server.kill()
            await server.start()
            await EventLog(bus).record(make.job_queued(job_id="job-4"))
            entries = await read(reader, 1)

    assert [entry.seq for entry in entries] == [4]


async def test_reader_goes_on_after_the_server_was_killed_in_the_middle(server: Server) -> None:
    async with connected(server.url) as bus:
        await fill_log(bus, 5000)
        async with reading_log(bus, after=0) as reader:
            entries = await read(reader, 500)
            await server.kill()
            await server.start()
            entries += await read(reader, 5000 - len(entries))

    assert [entry.seq for entry in entries] == list(range(1, 5001))


async def test_reader_goes_on_after_its_consumer_was_deleted(server: Server) -> None:
    async with connected(server.url) as bus:
        await fill_log(bus, 3)
        async with reading_log(bus, after=0) as reader:
            without_expiry(reader)
            await read(reader, 3)
            await delete_consumers(bus)
            await EventLog(bus).record(make.job_queued(job_id="job-4"))
            entries = await read(reader, 1)

    assert [entry.seq for entry in entries] == [4]


@pytest.mark.parametrize("read_before", [1, 400, 999, 1700])
async def test_reader_loses_nothing_when_its_consumer_is_deleted_in_the_middle(
    server: Server, read_before: int
) -> None:
    async with connected(server.url) as bus:
        await fill_log(bus, 5000)
        async with reading_log(bus, after=0) as reader:
            reader._EXPIRES = 0.5  # The end of a consumer may not be told, and is then seen by this.
            entries: list[Recorded] = []
            while len(entries) < read_before:
                entries += await reader.batch(read_before - len(entries))
            await delete_consumers(bus)
            entries += await read(reader, 5000 - len(entries))

    assert [entry.seq for entry in entries] == list(range(1, 5001))


async def delete_consumers(bus: Bus) -> None:
    for name in (await api(bus.nc, "CONSUMER.NAMES.EVENTS"))["consumers"]:
        await api(bus.nc, f"CONSUMER.DELETE.EVENTS.{name}")


async def test_stream_that_is_sourced_from_the_log_is_read_with_both_places(server: Server) -> None:
    async with connected(server.url) as bus:
        await fill_log(bus, 3)
        await EventLog(bus).record(make.document_stored(document_id="doc/ä.1"))
        async with reading_log(bus, after=0, stream="RAG") as reader:
            [entry] = await read(reader, 1)

    assert (entry.seq, entry.source) == (1, 4)
    assert isinstance(entry.event, DocumentStored)
    assert entry.event.document_id == "doc/ä.1"
