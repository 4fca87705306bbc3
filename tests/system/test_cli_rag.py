"""`fusion rag`, as a user runs it, before the rag actor with an embedding model of a few lines."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from bus.events import EventLog
from bus.subjects import JOB_EVENTS
from eventlog.events import JobCancelled
from tests.support.cli import fusion, on_terminal, started
from tests.support.nats import server_running, until, until_it
from tests.support.rag_world import RagWorld, jobs_actor, rag_actor, rag_world


async def test_folder_is_taken_in_found_listed_checked_and_deleted(tmp_path: Path) -> None:
    folder = documents(tmp_path / "documents")
    (folder / "bell\x07.txt").write_text("Its name is no text.")
    async with whole(tmp_path) as world:
        here = place(world)
        first = await fusion("rag", "ingest", str(folder), environment=here)
        again = await fusion("rag", "ingest", str(folder), "--glob", "*.md", environment=here)
        found, filtered, unanswered, listed, collections, verified, rebuilt = await asyncio.gather(
            fusion("rag", "search", "a bird sings", "--top-k", "1", environment=here),
            fusion("rag", "search", "a bird sings", "--filter", '{"author": "Ada"}', environment=here),
            fusion("rag", "query", "What sings?", "--model", "nobody", environment=here),
            fusion("rag", "documents", environment=here),
            fusion("rag", "collections", environment=here),
            fusion("rag", "verify", environment=here),
            fusion("rag", "rebuild", environment=here),
        )
        deleted = await fusion("rag", "delete", "--document", "birds.md", environment=here)
        left = set(await world.documents())
        emptied = await fusion("rag", "delete", "--all", environment=here)
        after = (await world.collections()).collections

    assert first.status == 1
    assert sorted(line.split("  ")[0].strip() for line in first.out.splitlines()[:-1]) == ["failed", "stored", "stored"]
    assert first.out.endswith("default: 2 stored, 0 replaced, 0 unchanged, 2 failed; 2 new chunks\n")
    assert [line.split(": ")[1] for line in first.err.splitlines()] == ["'bell\\x07.txt'", "picture.png"]
    assert (again.status, again.out.split()[:2]) == (0, ["unchanged", "birds.md"])
    assert found.out.startswith("[1] birds.md, Birds, characters ")
    assert "\n    A bird sings in the old tree.\n" in found.out
    assert filtered.out.startswith("0 passages in ")
    assert unanswered.status == 1
    assert "'nobody'" in unanswered.err
    assert "birds.md  (1 chunk)" in listed.out
    assert "notes/river.txt  (1 chunk)" in listed.out
    assert listed.out.endswith("\n2 documents\n")
    assert collections.out.splitlines()[1].split()[:3] == ["default", "2", "2"]
    assert (verified.status, verified.out) == (0, "default: 2 documents, 2 chunks, all agrees\n")
    assert rebuilt.out == "default: 2 vectors of 2 chunks, ready\n"
    assert deleted.out == "birds.md\n1 document, 1 chunk are deleted\n"
    assert left == {"notes/river.txt"}
    assert emptied.out == "default: 1 document, 1 chunk are deleted\n"
    assert after == ()


async def test_many_files_are_several_jobs_under_one_bar(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(120):
        (folder / f"{number}.txt").write_text(f"the old tree has {number} birds")
    async with whole(tmp_path) as world:
        words = ("rag", "ingest", str(folder), "--collection", "trees", "--chunk-size", "32", "--overlap", "4")
        shown = await on_terminal(*words, environment=place(world))
        stored = await world.documents("trees")

    assert len(stored) == 120
    assert "/120" in shown


async def test_interrupt_cancels_the_job(tmp_path: Path) -> None:
    folder = documents(tmp_path / "documents")
    async with whole(tmp_path) as world:
        world.words.gate.clear()
        async with started("rag", "ingest", str(folder), environment=place(world)) as process:
            await until(lambda: bool(world.words.asked))
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(60):
                await process.communicate()
        await until_it(lambda: is_cancelled(world))

    assert process.returncode == 130


async def test_problem_that_verify_finds_is_printed_and_its_exit_status(tmp_path: Path) -> None:
    async with whole(tmp_path) as world:
        await world.ingest(world.texts(a="a bird sings"))
        for path in world.config.rag_blobs.glob("??/*"):
            path.unlink()
        verified = await fusion("rag", "verify", environment=place(world))

    assert verified.status == 1
    assert verified.out.startswith("default: 1 document, 1 chunk, ")
    assert "\n  " in verified.out


async def test_what_cannot_be_taken_in_is_said_before_anything_is(tmp_path: Path) -> None:
    one, other = documents(tmp_path / "one"), documents(tmp_path / "other")
    async with whole(tmp_path) as world:
        here = place(world)
        twice, absent, nothing, patternless, elsewhere = await asyncio.gather(
            fusion("rag", "ingest", str(one), str(other), environment=here),
            fusion("rag", "ingest", str(tmp_path / "nobody"), environment=here),
            fusion("rag", "ingest", str(one), "--glob", "*.pdf", environment=here),
            fusion("rag", "ingest", str(one), "--glob", "/*.pdf", environment=here),
            fusion("rag", "ingest", str(one), environment=here | {"FUSION_STATE_DIR": str(tmp_path / "elsewhere")}),
        )
        stored = (await world.collections()).collections

    assert stored == ()
    assert [each.status for each in (twice, absent, nothing, patternless, elsewhere)] == [1] * 5
    assert "would be the same document" in twice.err
    assert absent.err == f"fusion: {tmp_path / 'nobody'} is not there.\n"
    assert nothing.err == "fusion: there are no such files.\n"
    assert patternless.err.startswith("fusion: --glob '/*.pdf' is no pattern: ")
    assert "--state-dir" in elsewhere.err


async def is_cancelled(world: RagWorld) -> bool:
    return any(isinstance(item.event, JobCancelled) for item in await EventLog(world.bus).read(JOB_EVENTS))


def documents(folder: Path) -> Path:
    """Write a few files, of which one is no document and one is hidden."""
    (folder / "notes").mkdir(parents=True)
    (folder / "birds.md").write_text("# Birds\n\nA bird sings in the old tree.\n")
    (folder / "notes" / "river.txt").write_text("The river runs cold and fast.")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (folder / ".hidden.md").write_text("Nobody sees this.")
    return folder


def place(world: RagWorld) -> dict[str, str]:
    """Return the variables by which the command finds it."""
    return {"FUSION_NATS_URL": world.config.url, "FUSION_STATE_DIR": str(world.config.state)}


@asynccontextmanager
async def whole(folder: Path) -> AsyncGenerator[RagWorld]:
    """Serve the rag actor and jobs for it."""
    state = folder / "state"
    state.mkdir()
    async with (
        server_running(folder) as server,
        rag_world(server, state) as world,
        rag_actor(world),
        jobs_actor(world),
    ):
        yield world
