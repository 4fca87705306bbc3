"""The historian: what it answers is what the log says."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from actors import historian
from bus.blobs import Blobs
from bus.client import Bus, settled
from bus.errors import LostError, RefusedError
from bus.events import EventLog, subject_of
from bus.messages.history import HistoryQuery, HistoryReply, JobHistory, JobQuery, RebuildHistory
from bus.streams import ensure_streams, stream_last_seq
from bus.subjects import GET_HISTORY, LIST_HISTORY, REBUILD_HISTORY
from eventlog.events import JobEvent, encode
from eventlog.history import History
from eventlog.job import fold
from tests.support import make
from tests.support.nats import Server, connected, until_it

STORY: tuple[JobEvent, ...] = (
    make.job_queued(job_id="job-a", metadata={"ü": [1]}),
    make.job_queued(job_id="job-b", at=make.at(1), model="other"),
    make.job_started(job_id="job-a", at=make.at(2)),
    make.job_completed(job_id="job-a", at=make.at(3)),
    make.job_failed(job_id="job-b", at=make.at(4), reason="refused", error="no"),
)


@asynccontextmanager
async def history_of(bus: Bus, path: Path) -> AsyncGenerator[asyncio.Future[None]]:
    """Run a historian until the block ends."""
    life = asyncio.ensure_future(
        historian.child(bus, path, Blobs(path.with_name("blobs")), 100_000, "historian-1").run()
    )
    await until_it(lambda: answers_or_ended(bus, life))
    try:
        yield life
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


async def answers_or_ended(bus: Bus, life: asyncio.Future[None]) -> bool:
    try:
        await bus.ask(LIST_HISTORY(), HistoryQuery())
    except LostError:
        return life.done()
    return True


async def tell(bus: Bus, events: Sequence[JobEvent]) -> int:
    """Record `events` and return the sequence of the last."""
    await ensure_streams(bus.nc, keep_days=7)
    return [await EventLog(bus).record(event) for event in events][-1]


async def page(bus: Bus, at_least: int, **query: object) -> HistoryReply:
    return await bus.ask(LIST_HISTORY(), HistoryQuery(at_least=at_least, **query))  # type: ignore[arg-type]


async def test_events_come_in_although_nobody_waits_for_them(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        last = await tell(bus, STORY[:1])
        async with history_of(bus, tmp_path / "h"):
            await page(bus, last)
            last = await tell(bus, STORY[1:])

            async def has_come() -> bool:
                return (await page(bus, 0)).as_of == last

            await until_it(has_come)
            told = await page(bus, 0)

    assert {job.job_id for job in told.jobs} == {event.job_id for event in STORY}


async def test_history_tells_what_the_log_says(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        last = await tell(bus, STORY)
        async with history_of(bus, tmp_path / "h"):
            reply = await page(bus, last)
            one: JobHistory = await bus.ask(GET_HISTORY(), JobQuery(job_id="job-a", at_least=last))
        recorded = await EventLog(bus).read_job("job-a")

    job = fold(item.event for item in recorded)
    assert job is not None
    assert [row.job_id for row in reply.jobs] == ["job-b", "job-a"]
    assert reply.total == 2
    assert reply.as_of == last
    assert [bytes(event) for event in one.events] == [item.raw for item in recorded]
    assert (one.job.status, one.job.completed_at, one.job.metadata) == (job.status, job.completed_at, job.metadata)


async def test_history_is_up_to_date_as_soon_as_it_is_asked_for_that(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        await tell(bus, STORY[:1])
        async with history_of(bus, tmp_path / "h"):
            for count in range(20):
                seq = await EventLog(bus).record(make.job_queued(job_id=f"job-{count}"))
                reply = await page(bus, seq)
                assert reply.total == count + 2


async def test_rebuilt_history_is_the_same(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        last = await tell(bus, STORY)
        async with history_of(bus, tmp_path / "h"):
            before = await page(bus, last)
            rebuilt = await bus.ask(REBUILD_HISTORY(), RebuildHistory())
            after = await page(bus, last)

    assert (rebuilt.as_of, rebuilt.jobs) == (last, 2)
    assert after == before


async def test_history_answers_and_goes_on_while_it_is_rebuilt(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        await tell(bus, [make.job_queued(job_id=f"job-{n}") for n in range(300)])
        async with history_of(bus, tmp_path / "h"):
            totals = [(await page(bus, 300, limit=1)).total]
            rebuilding = asyncio.ensure_future(bus.ask(REBUILD_HISTORY(), RebuildHistory(), patience=30))
            while not rebuilding.done():
                last = await tell(bus, [make.job_queued(job_id=f"job-{len(totals)}-late")])
                totals.append((await page(bus, last, limit=1)).total)
            rebuilt = await rebuilding
            after = await page(bus, last, limit=1)

    assert totals == list(range(300, 300 + len(totals)))
    assert len(totals) > 1
    assert rebuilt.as_of >= 300
    assert (after.total, after.as_of) == (totals[-1], last)
    assert sorted(path.name for path in tmp_path.glob("h*")) == ["h"]


async def test_history_stays_as_it_was_when_it_cannot_be_rebuilt(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    async with connected(server.url) as bus:
        last = await tell(bus, STORY)
        async with history_of(bus, folder / "h") as life:
            before = await page(bus, last)
            folder.rename(tmp_path / "moved")
            with pytest.raises(LostError, match="as it was") as lost:
                await bus.ask(REBUILD_HISTORY(), RebuildHistory())
            after = await page(bus, last)
            alive = not life.done()
            (tmp_path / "moved").rename(folder)

    assert lost.value.code == "unavailable"
    assert after == before
    assert alive


async def test_history_without_its_file_comes_back_from_the_log(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        last = await tell(bus, STORY)
        async with history_of(bus, tmp_path / "h"):
            before = await page(bus, last)
        (tmp_path / "h").unlink()
        async with history_of(bus, tmp_path / "h"):
            after = await page(bus, last)

    assert after == before


@pytest.mark.parametrize("damage", [b"this is no database", b"", b"\x00" * 20_000], ids=["text", "empty", "zeros"])
async def test_damaged_file_is_put_aside_and_built_again(server: Server, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "h").write_bytes(damage)
    async with connected(server.url) as bus:
        last = await tell(bus, STORY)
        async with history_of(bus, tmp_path / "h"):
            reply = await page(bus, last)

    assert reply.total == 2


async def test_what_a_killed_historian_has_left_is_deleted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "h-x4_1ab").mkdir()
    (tmp_path / "h-x4_1ab" / "h").write_bytes(b"half of a new history")
    async with connected(server.url) as bus:
        last = await tell(bus, STORY)
        async with history_of(bus, tmp_path / "h"):
            await page(bus, last)

    assert [path.name for path in tmp_path.glob("h*")] == ["h"]


async def test_file_that_another_process_has_is_left_alone(server: Server, tmp_path: Path) -> None:
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c"),
        f"import duckdb, sys\ndb = duckdb.connect({str(tmp_path / 'h')!r})\n"
        "print('open', flush=True)\nsys.stdin.read()",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout is not None
    await holder.stdout.readline()
    async with connected(server.url) as bus:
        await tell(bus, STORY)
        async with history_of(bus, tmp_path / "h") as life:
            await asyncio.wait((life,), timeout=60)
    await holder.communicate(b"")

    assert "lock" in repr(life.exception())
    assert (tmp_path / "h").exists()


async def test_file_of_an_older_version_is_built_anew(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        last = await tell(bus, STORY)
        older = History(tmp_path / "h")
        older._db.execute("DROP TABLE schema_version; ALTER TABLE requests DROP cached_tokens")
        older.close()
        async with history_of(bus, tmp_path / "h"):
            reply = await page(bus, last)

    assert reply.total == 2


async def test_historian_goes_on_at_its_checkpoint(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        await tell(bus, STORY[:3])
        async with history_of(bus, tmp_path / "h"):
            await page(bus, 3)
        history = History(tmp_path / "h")
        checkpoint = history.checkpoint
        history._db.execute("UPDATE jobs SET model = 'as it was kept'")
        history.close()
        last = await tell(bus, STORY[3:])
        async with history_of(bus, tmp_path / "h"):
            reply = await page(bus, last)

    assert checkpoint == 3
    assert {row.model for row in reply.jobs} == {"as it was kept"}
    assert {row.status for row in reply.jobs} == {"completed", "failed"}


async def test_historian_goes_on_after_the_server_was_killed(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        await tell(bus, STORY[:3])
        async with history_of(bus, tmp_path / "h") as life:
            await page(bus, 3)
            await server.kill()
            await server.start()
            last = await tell(bus, STORY[3:])
            reply = await page(bus, last)
            alive = not life.done()

    assert alive
    assert reply.as_of == last


async def test_events_that_nobody_knows_do_not_stop_it(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        await tell(bus, STORY[:1])
        await bus.nc.publish("fusion.event.job.job-a.danced", b'{"type":"job.danced"}')
        await bus.nc.publish("fusion.event.strange", b"\xff")
        await bus.nc.publish(subject_of(STORY[1]), encode(STORY[1]))
        await settled(bus.nc)
        await until_it(lambda: has(bus, 4))
        async with history_of(bus, tmp_path / "h"):
            reply = await page(bus, 4)

    assert reply.total == 2


async def has(bus: Bus, seq: int) -> bool:
    return await stream_last_seq(bus.nc, "EVENTS") == seq


async def test_waiting_for_a_point_of_the_log_that_does_not_come_has_an_end(server: Server, tmp_path: Path) -> None:
    async with connected(server.url, admit_timeout=0.2) as bus:
        last = await tell(bus, STORY)
        async with history_of(bus, tmp_path / "h"):
            with pytest.raises(LostError) as lost:
                await bus.ask(LIST_HISTORY(), HistoryQuery(at_least=last + 1000), patience=60)

    assert lost.value.code == "timeout"
    assert "has reached" in str(lost.value)


async def test_job_that_does_not_exist_is_not_found(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        last = await tell(bus, STORY)
        async with history_of(bus, tmp_path / "h"):
            with pytest.raises(RefusedError) as refused:
                await bus.ask(GET_HISTORY(), JobQuery(job_id="job-none", at_least=last))

    assert refused.value.code == "job_not_found"
    assert refused.value.failure.param == "job_id"


async def test_rebuilding_an_empty_log_ends(server: Server, tmp_path: Path) -> None:
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        async with history_of(bus, tmp_path / "h"):
            rebuilt = await bus.ask(REBUILD_HISTORY(), RebuildHistory())

    assert msgspec.to_builtins(rebuilt) == {"as_of": 0, "jobs": 0}
