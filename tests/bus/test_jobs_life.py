"""Limits, times and replays of jobs, by the actor that is asked over the bus and the log."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from actors.estimates import Estimates
from actors.job_follower import Recent, follow_jobs
from actors.open_jobs import OpenJobs
from bus.errors import RefusedError
from bus.events import EventLog
from bus.messages.jobs import RefuseJobs, ReplayJob
from bus.streams import api, ensure_stream, events_stream
from bus.subjects import REFUSE_JOBS, REPLAY_JOB
from eventlog.events import JobFailed, JobQueued, JobScheduled
from tests.support import make
from tests.support.jobs import Chat, World, living, world
from tests.support.nats import Server, until, until_it


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def positions_are(fusion: World, positions: set[int | None], *job_ids: str) -> None:
    async def is_so() -> bool:
        return {(await fusion.get(job_id)).position for job_id in job_ids} == positions

    await until_it(is_so)


async def test_more_jobs_than_may_wait_are_refused_and_known_ones_answered(server: Server, tmp_path: Path) -> None:
    chat = Chat(gated=True)
    async with world(server, tmp_path, chat, max_queued_jobs=3) as fusion:
        together = await asyncio.gather(
            *(fusion.submit(job_id=f"job-{number}") for number in range(8)), return_exceptions=True
        )
        accepted = [each.job_id for each in together if not isinstance(each, BaseException)]
        refused = [each for each in together if isinstance(each, RefusedError)]
        again = await fusion.submit(job_id=accepted[0])
        async with living(fusion.worker()):
            await until(lambda: chat.asked)
            await positions_are(fusion, {None, 1, 2}, *accepted)
            room = await fusion.submit(job_id="job-room")

    assert (len(accepted), len(refused)) == (3, 5)
    assert {error.code for error in refused} == {"queue_full"}
    message = f"3 jobs wait for '{make.MODEL}', and 3 may; this would be number 4 in turn."
    assert str(refused[-1]) == message
    assert refused[-1].failure.retry_after
    assert (again.job_id, again.status) == (accepted[0], "queued")
    assert room.position == 3


async def test_jobs_are_refused_when_the_log_is_nearly_full(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion:
        for name in ("known", *range(30)):
            await fusion.submit(job_id=f"job-{name}")
    async with world(server, tmp_path) as fusion:
        used = (await api(fusion.bus.nc, "STREAM.INFO.EVENTS"))["state"]["bytes"]
        await ensure_stream(fusion.bus.nc, events_stream(7) | {"max_bytes": int(used * 1.08)})
        with pytest.raises(RefusedError) as refused:
            await fusion.submit(job_id="job-new")
        known = await fusion.submit(job_id="job-known")
        ended = await fusion.cancel("job-known")

    assert refused.value.code == "storage_full"
    assert (known.status, ended.status) == ("queued", "cancelled")


async def test_place_and_end_of_a_job_are_estimated_from_those_before(server: Server, tmp_path: Path) -> None:
    chat = Chat()
    async with world(server, tmp_path, chat) as fusion:
        first = await fusion.submit(job_id="job-first")
        async with living(fusion.worker()):
            await fusion.ended("job-first")

        async def is_estimated() -> bool:
            return (await fusion.submit(job_id="job-a")).estimated_completion_ms is not None

        await until_it(is_estimated)
        low = await fusion.submit(job_id="job-low", priority="low")
        high = await fusion.submit(job_id="job-high", priority="high")
        low_later = await fusion.get("job-low")
        done = await fusion.get("job-first")

    assert (first.position, first.estimated_completion_ms) == (1, None)
    assert (low.position, high.position, low_later.position) == (2, 1, 3)
    assert low_later.estimated_completion_ms is not None
    assert high.estimated_completion_ms is not None
    assert low_later.estimated_completion_ms > high.estimated_completion_ms
    assert (done.position, done.estimated_completion_ms) == (None, None)


async def test_actor_that_starts_again_knows_what_waits(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path, max_queued_jobs=4) as fusion:
        await fusion.submit(job_id="job-a")
        await fusion.submit(job_id="job-b", priority="high")
        await fusion.submit(job_id="job-late", run_at=soon(3600))
        await fusion.submit(job_id="job-gone")
        await fusion.cancel("job-gone")
    async with world(server, tmp_path, max_queued_jobs=3) as again:
        found = [(await again.get(f"job-{name}")).position for name in ("a", "b", "late", "gone")]
        with pytest.raises(RefusedError) as refused:
            await again.submit(job_id="job-more")

    assert found == [2, 1, None, None]
    assert refused.value.code == "queue_full"


async def test_open_jobs_are_known_without_reading_all_of_the_log(server: Server, tmp_path: Path) -> None:
    chat = Chat(gated=True)
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker()):
        await fusion.submit(job_id="job-runs", priority="high")
        await until(lambda: chat.asked)
        await fusion.submit(job_id="job-waits")
        await fusion.submit(job_id="job-late", run_at=soon(3600))
        await fusion.submit(job_id="job-gone")
        await fusion.cancel("job-gone")
        await fusion.queue_is(2)
        known, loaded = OpenJobs(Estimates(), lambda: None), asyncio.Event()
        async with living(follow_jobs(fusion.bus, known, loaded, Recent(seconds=-3600, events=0))):
            await asyncio.wait_for(loaded.wait(), 60)
            found = {one.job.job_id: one.job.status for one in known.of_model(make.MODEL)}
            chat.gate.set()
            await until(lambda: known.running(make.MODEL) + known.count(make.MODEL) == 1)

    assert found == {"job-runs": "processing", "job-waits": "queued", "job-late": "queued"}
    assert known.position_of("job-late") is None


async def test_scheduled_job_is_queued_at_its_time_by_whoever_lives_then(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion:
        run_at = soon(4)
        scheduled = await fusion.submit(run_at=run_at, metadata={"who": "me"})
        before = await fusion.kinds()
    async with world(server, tmp_path, Chat()) as fusion, living(fusion.worker()):
        kinds = await fusion.ended()
        story = [item.event for item in await fusion.log.read_job(make.JOB_ID)]
        job = await fusion.get()

    assert (scheduled.status, scheduled.position, scheduled.run_at) == ("queued", None, run_at)
    assert before == ["JobScheduled"]
    assert kinds == ["JobScheduled", "JobQueued", "JobStarted", "JobCompleted"]
    assert isinstance(story[0], JobScheduled)
    assert isinstance(story[1], JobQueued)
    assert story[1].at >= run_at
    assert job.metadata == {"who": "me"}


async def test_job_whose_time_has_passed_is_queued_at_once(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion:
        job = await fusion.submit(run_at=soon(-60))
        kinds = await fusion.kinds()

    assert (job.position, kinds) == (1, ["JobQueued"])


async def test_scheduled_job_can_be_cancelled_before_its_time(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion:
        await fusion.submit(run_at=soon(3600))
        cancelled = await fusion.cancel()

    assert cancelled.status == "cancelled"


async def test_queued_job_fails_when_it_expires_and_leaves_the_queue(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion:
        expires_at = soon(3)
        await fusion.submit(expires_at=expires_at)
        await fusion.submit(job_id="job-other")
        kinds = await fusion.ended()
        job = await fusion.get()
        await fusion.queue_is(1)
        other = await fusion.get("job-other")

    assert kinds == ["JobQueued", "JobFailed"]
    assert (job.status, job.reason, job.expires_at) == ("failed", "expired", expires_at)
    assert job.completed_at is not None
    assert job.completed_at >= expires_at
    assert other.position == 1


async def test_running_job_does_not_expire(server: Server, tmp_path: Path) -> None:
    chat = Chat(gated=True)
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker()):
        expires_at = soon(4)
        await fusion.submit(expires_at=expires_at)
        await until(lambda: chat.asked)
        await fusion.submit(job_id="job-after", expires_at=max(expires_at, soon(3)))
        after = await fusion.ended("job-after")
        chat.gate.set()
        kinds = await fusion.ended()

    assert after == ["JobQueued", "JobFailed"]
    assert kinds == ["JobQueued", "JobStarted", "JobCompleted"]


@pytest.mark.parametrize(("cancelled", "end"), [(False, "JobFailed"), (True, "JobCancelled")])
async def test_running_job_that_nobody_ends_is_ended_when_it_has_expired(
    server: Server, tmp_path: Path, cancelled: bool, end: str
) -> None:
    async with world(server, tmp_path) as fusion:
        await fusion.submit(expires_at=soon(4), run_timeout=10)
        await fusion.log.record(make.job_started(at=soon(-71), actor="dead"))
        if cancelled:
            await fusion.cancel()
        kinds = await fusion.ended()

    assert kinds[-1] == end


async def test_what_is_sampled_gets_a_seed_of_its_own(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion:
        drawn = [(await fusion.submit(job_id=f"job-{number}")).seed for number in range(3)]
        said = msgspec.Raw(msgspec.json.encode(make.chat_request(seed=7)))
        named = await fusion.submit(job_id="job-named", input=said)

    assert len({*drawn} - {None}) == 3
    assert named.seed is None


async def test_job_that_has_ended_is_run_again_as_another(server: Server, tmp_path: Path) -> None:
    chat = Chat()
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker()):
        first = await fusion.submit(
            priority="high", metadata={"n": 1}, callback_url="https://a.example", run_timeout=9.0
        )
        await fusion.ended()
        again = await fusion.bus.ask(REPLAY_JOB(), ReplayJob(job_id=make.JOB_ID, key="key-1"))
        await fusion.ended(again.job_id)
        job = await fusion.get(again.job_id)
        [queued] = [e.event for e in await fusion.log.read_job(again.job_id) if isinstance(e.event, JobQueued)]

    assert again.job_id != first.job_id
    assert again.comparison is None
    assert (job.seed, job.priority, job.metadata, job.run_timeout) == (first.seed, "high", {"n": 1}, 9.0)
    assert (job.callback_url, queued.key) == (None, "key-1")
    assert job.replay_of == make.JOB_ID
    assert job.comparison is not None
    assert (job.comparison.is_same, job.comparison.differences) == (True, ())


async def test_job_that_has_not_ended_or_lost_its_input_is_not_run_again(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion:
        await fusion.submit()
        with pytest.raises(RefusedError) as early:
            await fusion.bus.ask(REPLAY_JOB(), ReplayJob(job_id=make.JOB_ID))
        await fusion.cancel()
        await fusion.blobs.forget(-60)
        with pytest.raises(RefusedError) as late:
            await fusion.bus.ask(REPLAY_JOB(), ReplayJob(job_id=make.JOB_ID))
        with pytest.raises(RefusedError) as never:
            await fusion.bus.ask(REPLAY_JOB(), ReplayJob(job_id="job-none"))

    assert [error.value.code for error in (early, late, never)] == ["conflict", "conflict", "job_not_found"]
    assert "is queued" in str(early.value)
    assert "not kept" in str(late.value)


async def test_jobs_of_a_model_that_cannot_be_loaded_are_ended(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion:
        await fusion.submit(job_id="job-queued")
        await fusion.submit(job_id="job-lost")
        await fusion.submit(job_id="job-late", run_at=soon(3600))
        log = EventLog(fusion.bus)
        [queued] = await log.read_job("job-lost")
        await log.record_next(make.job_started(job_id="job-lost", actor="dead"), after=queued.seq)
        await positions_are(fusion, {None}, "job-lost")

        async def are_refused() -> bool:
            refused.append((await fusion.bus.ask(REFUSE_JOBS(), RefuseJobs(model=make.MODEL, error="too big"))).count)
            return sum(refused) == 2

        refused: list[int] = []
        await until_it(are_refused)
        jobs_now = [await fusion.get(f"job-{name}") for name in ("queued", "lost", "late")]
        await fusion.queue_is(0)
        [_, failed] = [item.event for item in await log.read_job("job-queued")]

    assert [job.status for job in jobs_now] == ["failed", "failed", "queued"]
    assert isinstance(failed, JobFailed)
    assert (failed.reason, failed.error) == ("model_unavailable", "too big")
