"""The log: recorded once, in order, and fenced."""

import asyncio
from collections import Counter

import pytest
from msgspec.structs import replace

from bus.client import Bus
from bus.errors import ConflictError, LostError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from bus.streams import api, ensure_stream, ensure_streams, events_stream, stream_last_seq
from eventlog.events import Event, JobEvent, JobStarted, ModelLost, ModelReady, Recorded, Unknown
from tests.support import make
from tests.support.nats import Server, connected, plain_client, until

MODEL_EVENTS: list[Event] = [
    ModelReady(id=new_id(), at=make.AT, model="a/b.c d", instance="i", seconds=1.0, size_bytes=5),
    ModelLost(id=new_id(), at=make.AT, model="*.>", instance="i", why="gone"),
    make.request_finished(request_id="my id.>"),
]


def kinds(recorded: list[Recorded]) -> list[str]:
    return [type(item.event).__name__ for item in recorded]


async def test_event_recorded_twice_is_there_once(server: Server) -> None:
    event = make.request_finished()
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        first = await log.record(event)
        second = await log.record(event)

        assert (first, second) == (1, 1)
        assert await stream_last_seq(bus.nc, "EVENTS") == 1


@pytest.mark.parametrize("event", MODEL_EVENTS, ids=lambda event: type(event).__name__)
async def test_event_about_anything_is_told_on_the_feed_as_it_was_recorded(server: Server, event: Event) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        async with log.follow() as events:
            seq = await log.record(event)
            async with asyncio.timeout(60):
                heard = await anext(events)

    assert heard.event == event
    assert heard.seq == seq


async def test_job_is_read_as_it_was_recorded(server: Server) -> None:
    events: list[JobEvent] = [
        make.job_queued(metadata={"ü": ["\u0000", None]}),
        make.job_started(),
        make.job_retry_scheduled(),
        make.job_cancel_requested(),
        make.job_cancelled(),
    ]
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log, last = EventLog(bus), 0
        for event in events:
            await log.record(make.job_queued(job_id=new_id("job")))
            last = await log.record_next(event, after=last)
        recorded = await log.read_job(make.JOB_ID)

    assert [item.event for item in recorded] == events
    assert [item.seq for item in recorded] == [2, 4, 6, 8, 10]


async def test_job_that_does_not_exist_has_no_events(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        recorded = [await EventLog(bus).read_job(job_id) for job_id in ("job-1", "*", ">", "a.b", "ü")]

    assert recorded == [[]] * 5


async def test_of_two_writers_that_saw_the_same_one_gets_a_conflict(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        seq = await log.record_next(make.job_queued(), after=0)
        await log.record_next(make.job_started(), after=seq)
        with pytest.raises(ConflictError):
            await log.record_next(make.job_cancelled(), after=seq)
        with pytest.raises(ConflictError):
            await log.record_next(make.job_queued(), after=0)
        recorded = await log.read_job(make.JOB_ID)

    assert kinds(recorded) == ["JobQueued", "JobStarted"]


async def test_of_many_writers_at_once_exactly_one_wins(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        seq = await log.record_next(make.job_queued(), after=0)
        ends = [make.job_completed(), make.job_failed(), make.job_cancelled()] * 4
        ends = [type(end)(**{**_fields(end), "id": new_id()}) for end in ends]
        results = await asyncio.gather(*(log.record_next(end, after=seq) for end in ends), return_exceptions=True)
        recorded = await log.read_job(make.JOB_ID)

    assert Counter(type(result).__name__ for result in results) == {"int": 1, "ConflictError": 11}
    assert len(recorded) == 2


def _fields(event: JobEvent) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


async def test_retry_after_a_lost_acknowledgement_finds_the_own_event(server: Server) -> None:
    started = make.job_started()
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        queued = await log.record_next(make.job_queued(), after=0)
        first = await log.record_next(started, after=queued)
        await log.record_next(make.job_completed(), after=first)
        again = await log.record_next(started, after=queued)
        recorded = await log.read_job(make.JOB_ID)

    assert again == first
    assert kinds(recorded) == ["JobQueued", "JobStarted", "JobCompleted"]


async def test_writes_to_one_job_do_not_disturb_another(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        first = await log.record_next(make.job_queued(job_id="job-a"), after=0)
        second = await log.record_next(make.job_queued(job_id="job-a_b"), after=0)
        await log.record_next(make.job_started(job_id="job-a"), after=first)
        await log.record_next(make.job_started(job_id="job-a_b"), after=second)

        assert kinds(await log.read_job("job-a")) == ["JobQueued", "JobStarted"]


@pytest.mark.parametrize("count", [255, 256, 257, 600])
async def test_job_with_more_events_than_one_batch_is_read_whole_and_in_order(server: Server, count: int) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        await asyncio.gather(*(log.record(make.job_started(attempt=n)) for n in range(count)))
        recorded = await log.read_job(make.JOB_ID)

    assert [item.seq for item in recorded] == list(range(1, count + 1))
    assert {item.event.attempt for item in recorded if isinstance(item.event, JobStarted)} == set(range(count))


async def test_last_event_of_each_kind_is_read_of_many_jobs_at_once(server: Server) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        for number in range(150):
            await log.record(make.job_queued(job_id=f"job-{number}"))
        story = make.job_started(), make.job_retry_scheduled(), make.job_started(attempt=2)
        for event in story:
            await log.record(replace(event, job_id="job-7"))
        found = await log.read_last_of_jobs([f"job-{number}" for number in (*range(100), *range(130, 150), 999)])

    assert [item.seq for item in found] == sorted(item.seq for item in found)
    assert len(found) == 100 + 20 + 2
    own = [item for item in found if isinstance(item.event, JobEvent) and item.event.job_id == "job-7"]
    assert kinds(own) == ["JobQueued", "JobRetryScheduled", "JobStarted"]
    assert isinstance(own[2].event, JobStarted)
    assert own[2].event.attempt == 2


async def test_unreadable_event_of_a_job_is_read_as_unknown(server: Server) -> None:
    async with connected(server.url) as bus, plain_client(server.url) as nc:
        await ensure_streams(bus.nc, keep_days=7)
        await nc.jetstream().publish("fusion.event.job.job-1.danced", b'{"type":"job.danced","high":true}')
        await nc.jetstream().publish("fusion.event.job.job-1.started", b"\xff")
        recorded = await EventLog(bus).read_job("job-1")

    assert [item.event for item in recorded] == [
        Unknown(kind="job.danced", raw=b'{"type":"job.danced","high":true}'),
        Unknown(kind="", raw=b"\xff"),
    ]


async def test_killed_server_loses_and_doubles_nothing_that_was_recorded(server: Server) -> None:
    acknowledged: dict[str, int] = {}
    async with connected(server.url, append_timeout=60) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)

        async def append(job_id: str) -> None:
            last = 0
            for attempt in range(30):
                event = make.job_started(job_id=job_id, attempt=attempt)
                last = await log.record_next(event, after=last)
                acknowledged[event.id] = last

        async def kill_twice() -> None:
            for goal in (30, 60):
                await until(lambda: len(acknowledged) >= goal)  # noqa: B023 - awaited here
                await server.kill()
                await server.start()

        async with asyncio.TaskGroup() as group:
            for n in range(4):
                group.create_task(append(f"job-{n}"))
            group.create_task(kill_twice())
        recorded = [item for n in range(4) for item in await log.read_job(f"job-{n}")]

    assert {item.event.id: item.seq for item in recorded if isinstance(item.event, JobStarted)} == acknowledged
    assert len(recorded) == len(acknowledged) == 120


async def test_log_is_read_through_a_restart_of_the_server(server: Server) -> None:
    async with connected(server.url, append_timeout=60) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        log = EventLog(bus)
        await log.record(make.job_queued())
        await server.kill()
        reading = asyncio.create_task(log.read_job(make.JOB_ID))
        await server.start()
        async with asyncio.timeout(60):
            recorded = await reading

    assert kinds(recorded) == ["JobQueued"]


async def test_log_that_does_not_answer_is_lost_after_the_timeout(server: Server) -> None:
    async with connected(server.url, append_timeout=0.1) as bus:
        log = EventLog(bus)
        with pytest.raises(LostError) as writing:
            await log.record(make.job_queued())
        with pytest.raises(LostError) as reading:
            await log.read_job(make.JOB_ID)

    assert writing.value.code == reading.value.code == "unavailable"


@pytest.mark.parametrize("way", ["follow", "hearing"])
async def test_who_would_hear_of_events_is_told_when_the_log_is_away(server: Server, way: str) -> None:
    async with connected(server.url, append_timeout=0.1) as bus:
        await server.kill()
        with pytest.raises(LostError) as lost:
            async with getattr(EventLog(bus), way)("fusion.feed.>"):
                pass

    assert lost.value.code == "unavailable"


async def test_full_log_refuses_with_storage_full_and_keeps_what_it_has(server: Server) -> None:
    async with connected(server.url) as bus:
        await tiny_log(bus)
        log = EventLog(bus)
        with pytest.raises(RefusedError) as refused:
            for n in range(100):
                await log.record_next(make.job_queued(job_id=f"job-{n}"), after=0)
        recorded = await log.read_job("job-0")

    assert refused.value.code == "storage_full"
    assert kinds(recorded) == ["JobQueued"]


async def tiny_log(bus: Bus) -> None:
    await ensure_stream(bus.nc, events_stream(7) | {"max_bytes": 4096})


@pytest.mark.parametrize("size", [70_000, 2**20, 2 * 2**20])
async def test_event_that_is_too_large_is_refused_at_once(server: Server, size: int) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        with pytest.raises(RefusedError) as refused:
            await EventLog(bus).record(make.job_failed(error="x" * size))
        answer = await api(bus.nc, "STREAM.INFO.EVENTS")

    assert refused.value.code == "too_large"
    assert answer["state"]["messages"] == 0
    assert bus.nc.stats["reconnects"] == 0
