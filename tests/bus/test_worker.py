"""The worker: attempts, fences, and what may pass."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from bus.client import Bus
from bus.errors import Code, ConflictError, LostError, RefusedError
from bus.events import EventLog
from bus.serve import Endpoint, serving
from bus.streams import api, ensure_stream, ensure_streams, events_stream
from bus.subjects import CHAT
from eventlog.events import JobCompleted, JobFailed
from tests.support import make
from tests.support.jobs import Chat, World, living, served, world
from tests.support.nats import Server, connected, service, until, until_it


async def test_job_of_a_frozen_worker_is_run_by_another_and_ends_once(server: Server, tmp_path: Path) -> None:
    frozen = Chat(gated=True)
    async with world(server, tmp_path) as fusion:
        # The first gives a sign of life every ten seconds; from the second on a job is expected to every second.
        info = service("frozen", instance="chat-1")
        async with living(fusion.worker("chat-1", ack_wait=30.0)):
            async with serving(fusion.bus, info, Endpoint(CHAT(make.MODEL), frozen.receive), drain=0):
                await fusion.submit()
                await until(lambda: frozen.asked)
                other = EventLog(fusion.bus)
                async with connected(server.url, "second") as bus:
                    second = World(bus, fusion.blobs)
                    async with living(second.worker("chat-2", ack_wait=3.0)):
                        await until_it(lambda: started_twice(other))
                        frozen.gate.set()
                        kinds = await fusion.ended()
                        await fusion.queue_is(0)
                        after = await fusion.kinds()

    assert kinds == after == ["JobQueued", "JobStarted", "JobStarted", "JobCompleted"]
    assert len(frozen.asked) == 2


async def started_twice(log: EventLog) -> bool:
    return [type(item.event).__name__ for item in await log.read_job(make.JOB_ID)].count("JobStarted") == 2


async def test_end_recorded_by_a_worker_that_lost_its_job_is_fenced(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path) as fusion:
        await fusion.submit()
        fence = await fusion.log.record_next(make.job_started(actor="frozen"), after=1)
        await fusion.log.record_next(make.job_started(actor="second", attempt=2), after=fence)
        with pytest.raises(ConflictError):
            await fusion.log.record_next(make.job_completed(), after=fence)

        assert await fusion.kinds() == ["JobQueued", "JobStarted", "JobStarted"]


@pytest.mark.parametrize(
    "error",
    [LostError("restarting", "Soon."), RefusedError("queue_full", "Full.")],
    ids=lambda error: error.code,
)
async def test_job_whose_error_may_pass_is_tried_again(server: Server, tmp_path: Path, error: Exception) -> None:
    chat = Chat(error)
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker()):
        await fusion.submit()
        kinds = await fusion.ended()
        job = await fusion.get()

    assert kinds == ["JobQueued", "JobStarted", "JobRetryScheduled", "JobStarted", "JobCompleted"]
    assert job.attempts == 2
    assert job.error is None


async def test_job_whose_attempts_are_used_up_fails(server: Server, tmp_path: Path) -> None:
    chat = Chat(LostError("restarting", "Soon."))
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker(max_attempts=1)):
        await fusion.submit()
        kinds = await fusion.ended()
        job = await fusion.get()

    assert kinds == ["JobQueued", "JobStarted", "JobFailed"]
    assert job.reason == "max_attempts"
    assert job.error == "Soon."


@pytest.mark.parametrize("code", ["context_length_exceeded", "insufficient_memory"])
async def test_job_that_is_refused_fails_at_once_with_the_reason(server: Server, tmp_path: Path, code: Code) -> None:
    chat = Chat(RefusedError(code, "Too long.", param="messages"))
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker()):
        await fusion.submit()
        kinds = await fusion.ended()
        job = await fusion.get()

    assert kinds == ["JobQueued", "JobStarted", "JobFailed"]
    assert (job.status, job.reason, job.error) == ("failed", "refused", "Too long.")


async def test_job_that_runs_too_long_fails_and_its_work_ends(server: Server, tmp_path: Path) -> None:
    chat = Chat(gated=True)
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker(run_timeout=0.1)):
        await fusion.submit()
        await fusion.ended()
        await until(lambda: chat.closed)
        job = await fusion.get()

    assert (job.status, job.reason) == ("failed", "timeout")


@pytest.mark.parametrize("damage", ["gone", "damaged"])
async def test_job_whose_input_is_lost_fails(server: Server, tmp_path: Path, damage: str) -> None:
    chat = Chat()
    async with world(server, tmp_path, chat) as fusion:
        await fusion.submit()
        (path,) = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"{}")
        async with living(fusion.worker()):
            await fusion.ended()
            job = await fusion.get()

    assert (job.status, job.reason) == ("failed", "input_lost")
    assert chat.asked == []


async def test_job_whose_result_is_gone_is_still_completed(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path, Chat()) as fusion, living(fusion.worker()):
        await fusion.submit()
        await fusion.ended()
        for path in (tmp_path / "blobs").rglob("*"):
            if path.is_file():
                path.unlink()
        job = await fusion.get()

    assert job.status == "completed"
    assert not job.result
    assert job.result_blob is not None


async def test_running_job_of_a_stopped_worker_is_run_by_the_next(server: Server, tmp_path: Path) -> None:
    chat = Chat(gated=True)
    async with world(server, tmp_path, chat) as fusion:
        async with living(fusion.worker("chat-1")):
            await fusion.submit()
            await until(lambda: chat.asked)
        chat.gate.set()
        async with living(fusion.worker("chat-2")):
            kinds = await fusion.ended()

    assert kinds == ["JobQueued", "JobStarted", "JobStarted", "JobCompleted"]
    assert chat.closed == 2


async def test_running_job_of_a_worker_that_drains_is_finished(server: Server, tmp_path: Path) -> None:
    chat = Chat(gated=True)
    async with world(server, tmp_path, chat) as fusion:
        task = asyncio.create_task(fusion.worker(drain=20.0))
        await fusion.submit()
        await until(lambda: chat.asked)
        task.cancel()
        await asyncio.sleep(0)
        chat.gate.set()
        with suppress(asyncio.CancelledError):
            await task
        kinds = await fusion.kinds()

    assert kinds == ["JobQueued", "JobStarted", "JobCompleted"]


async def test_as_many_jobs_run_at_once_as_may(server: Server, tmp_path: Path) -> None:
    chat = Chat(gated=True)
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker(concurrency=2)):
        for n in range(4):
            await fusion.submit(job_id=f"job-{n}")
        await until(lambda: len(chat.asked) == 2)
        chat.gate.set()
        for n in range(4):
            await fusion.ended(f"job-{n}")

    assert len(chat.asked) == 4


async def test_full_log_does_not_end_the_worker(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path, Chat()) as fusion:
        await fusion.submit()
        await fusion.queue_is(1)
        used = (await api(fusion.bus.nc, "STREAM.INFO.EVENTS"))["state"]["bytes"]
        await ensure_stream(fusion.bus.nc, events_stream(7) | {"max_bytes": used})
        async with living(fusion.worker(ack_wait=0.2)) as (worker,):
            with pytest.raises(RefusedError) as refused:
                await fusion.submit(job_id="job-2")
            await until_it(lambda: tried_twice(fusion.bus))
            alive = not worker.done()
            await ensure_streams(fusion.bus.nc, keep_days=7)
            kinds = await fusion.ended()

    assert refused.value.code == "storage_full"
    assert alive
    assert kinds == ["JobQueued", "JobStarted", "JobCompleted"]


async def tried_twice(bus: Bus) -> bool:
    (name,) = [name for name in (await api(bus.nc, "CONSUMER.NAMES.JOBS"))["consumers"] if name.startswith("normal")]
    return bool((await api(bus.nc, f"CONSUMER.INFO.JOBS.{name}"))["delivered"]["consumer_seq"] > 1)


async def test_worker_goes_on_after_the_server_was_killed(server: Server, tmp_path: Path) -> None:
    async with world(server, tmp_path, Chat()) as fusion, living(fusion.worker()):
        await fusion.submit()
        await fusion.ended()
        await server.kill()
        await server.start()
        await until_it(lambda: served(fusion.bus))
        await fusion.submit(job_id="job-2")
        kinds = await fusion.ended("job-2")

    assert kinds == ["JobQueued", "JobStarted", "JobCompleted"]


async def test_job_survives_the_server_being_killed_while_it_runs(server: Server, tmp_path: Path) -> None:
    chat = Chat(gated=True)
    async with world(server, tmp_path, chat) as fusion, living(fusion.worker(ack_wait=1.0)):
        await fusion.submit()
        await until(lambda: chat.asked)
        await server.kill()
        chat.gate.set()
        await server.start()
        await fusion.ended()
        await fusion.queue_is(0)
        ends = [item.event for item in await fusion.log.read_job(make.JOB_ID)]

    assert [type(end) for end in ends if isinstance(end, JobCompleted | JobFailed)] == [JobCompleted]
