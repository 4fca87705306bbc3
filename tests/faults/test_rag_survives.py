"""The rag process is killed while documents come and go: what was answered stays so."""

import asyncio
import os
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bus.errors import LostError
from bus.messages.models import ListModels
from bus.messages.rag_documents import (
    CHUNKS_TYPE,
    DocumentSource,
    GivenChunk,
    IngestDocuments,
    IngestProgress,
    IngestResult,
    ListCollections,
)
from bus.streams import ensure_stream, events_stream, stream_state
from bus.subjects import INGEST_DOCUMENTS, LIST_COLLECTIONS, LIST_MODELS
from tests.support.nats import connected, server_running, until, until_it
from tests.support.processes import fusion_up
from tests.support.rag_world import (
    DIMENSIONS,
    RagProcess,
    RagWorld,
    finished,
    jobs_actor,
    rag_process,
    rag_world,
    submitted,
)

# `FUSION_RAG_CYCLES=20 pytest tests/faults/test_rag_survives.py` takes its time.
CYCLES = int(os.environ.get("FUSION_RAG_CYCLES", "4"))
MANY = 6000


class Story:
    """What the clients were told: which documents are `there`, and which not. What nobody was told is `open`."""

    def __init__(self, world: RagWorld) -> None:
        self.there: set[str] = set()
        self.gone: set[str] = set()
        self.open: set[str] = set()
        self.told = 0
        self._world = world
        self._number = 0

    def begin(self) -> None:
        """Store and delete documents, until that is ended."""
        self._going = asyncio.create_task(self._go_on())

    async def end(self) -> None:
        """Have the client leave: it hears of nothing any more."""
        self._going.cancel()
        await asyncio.gather(self._going, return_exceptions=True)

    async def _go_on(self) -> None:
        while True:
            await self._store([f"doc-{self._number + each}" for each in range(3)])
            await self._delete(min(self.there))

    async def _store(self, names: list[str]) -> None:
        self._number += len(names)
        self.open |= set(names)
        order = self._world.texts(**{name: f"a bird sings of {name}" for name in names})
        async with self._world.bus.stream(INGEST_DOCUMENTS(), order) as answer:
            async for item in answer:
                if isinstance(item, IngestProgress) and item.document is not None:
                    assert item.document.status in {"stored", "unchanged"}, item
                    self._is_told(item.document.document_id or "", self.there)

    async def _delete(self, name: str) -> None:
        self.there.discard(name)
        self.open.add(name)
        await self._world.delete(document_id=name)
        self._is_told(name, self.gone)

    def _is_told(self, name: str, where: set[str]) -> None:
        self.open.discard(name)
        where.add(name)
        self.told += 1


async def test_nothing_answered_is_lost_when_it_is_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(7)  # noqa: S311 - no secret
    async with server_running(tmp_path, "always") as server, rag_world(server, tmp_path) as world:
        async with rag_process(world, "snapshot_seconds: 0.2") as process:
            source = DocumentSource(blob=await world.given.put(many()), content_type=CHUNKS_TYPE)
            await world.ingest(IngestDocuments(documents=(source,), collection="many"))
            story = Story(world)
            for cycle in range(CYCLES):
                await told_more(story, chance.randrange(1, 12))
                await process.kill()
                await story.end()
                damage(tmp_path / "rag" / "indexes", chance, cycle)
                await process.start()
                await process.ready()
                await agrees(world, story)
            verified = await world.verified("many")
            cards = await world.documents()
            await until(lambda: len(world.blobs()) == 2 * (len(cards) + 1))

    assert len(story.there) > CYCLES
    assert (verified.documents, verified.chunks, verified.problems) == (1, MANY, ())


async def agrees(world: RagWorld, story: Story) -> None:
    """Hold what is there against what was told; what nobody was told may be either way, from then on for good."""
    cards, verified = await world.documents(), await world.verified()
    assert story.there <= set(cards)
    assert story.gone & set(cards) == set()
    assert set(cards) <= story.there | story.open
    assert verified.problems == ()
    story.there |= set(cards)
    story.gone |= story.open - set(cards)
    story.open.clear()


async def told_more(story: Story, count: int) -> None:
    """Go on with the story, and return in the middle of it."""
    goal = story.told + count
    story.begin()
    await until(lambda: story.told >= goal, 60)


def damage(folder: Path, chance: random.Random, cycle: int) -> None:
    """Shorten the snapshots of indexes, or change a byte of each, every other time."""
    for path in folder.rglob("*"):
        if path.is_file() and cycle % 2 == 0 and path.stat().st_size:
            content = bytearray(path.read_bytes())
            place = chance.randrange(len(content))
            if cycle % 4 == 0:
                content[place] ^= 0xFF
            else:
                del content[place:]
            path.write_bytes(content)


def many() -> bytes:
    """Return a document of so many chunks that its vectors are worth a graph, which is saved."""
    rows = np.random.default_rng(7).standard_normal((MANY, DIMENSIONS)).round(3)
    chunks = [GivenChunk(text=f"chunk {number}", embedding=tuple(row.tolist())) for number, row in enumerate(rows)]
    return msgspec.json.encode(chunks)


async def test_ingest_goes_on_after_the_process_was_stopped_in_the_middle(tmp_path: Path) -> None:
    async with server_running(tmp_path) as server, rag_world(server, tmp_path) as world, jobs_actor(world):
        async with rag_process(world) as process:
            await world.ingest(world.texts(a="a bird sings"))
            world.words.gate.clear()
            job = await submitted(world, world.texts(a="a bird sings", b="the river runs"))
            await until(lambda: len(world.words.asked) > 1)
            status = await process.stop()
            world.words.gate.set()
            await process.start()
            ended = await finished(world, job.job_id)
            cards = await world.documents()

    assert status == 0
    assert (ended.status, ended.attempts) == ("completed", 2)
    result = msgspec.json.decode(ended.result, type=IngestResult)
    assert [one.status for one in result.documents] == ["unchanged", "stored"]
    assert set(cards) == {"a", "b"}


async def test_documents_are_built_again_from_a_log_that_events_has_forgotten(tmp_path: Path) -> None:
    async with server_running(tmp_path) as server, rag_world(server, tmp_path) as world:
        async with rag_process(world) as process:
            await world.ingest(world.texts(a="a bird sings", b="the river runs", c="a cold tree"))
            await world.ingest(world.texts(a="an old bird sings"))
            await world.delete(document_id="b")
            before = await world.documents()
            assert await process.stop() == 0
            await ensure_stream(world.bus.nc, events_stream(7) | {"max_age": 100_000_000})
            await until_it(lambda: is_empty(world, "EVENTS"))
            await ensure_stream(world.bus.nc, events_stream(7))
            (tmp_path / "rag" / "rag.duckdb").unlink()
            await process.start()
            await process.ready()
            after = await world.documents()
            verified = await world.verified()
            again = await world.ingest(world.texts(a="an old bird sings", b="the river runs"))
            await world.delete(document_id="c")
            last = await world.documents()

    assert after == before
    assert verified.problems == ()
    assert [one.status for one in again.documents] == ["unchanged", "stored"]
    assert set(last) == {"a", "b"}


async def is_empty(world: RagWorld, stream: str) -> bool:
    return bool((await stream_state(world.bus.nc, stream))["messages"] == 0)


async def test_documents_are_not_thrown_away_when_the_log_was_lost(tmp_path: Path) -> None:
    for life in ("first", "second"):
        (tmp_path / life).mkdir()
    async with server_running(tmp_path / "first") as server, rag_world(server, tmp_path) as world:
        async with rag_process(world) as process:
            await world.ingest(world.texts(a="a bird sings"))
            await process.stop()
        blobs = world.blobs()
    async with server_running(tmp_path / "second") as server, rag_world(server, tmp_path) as world:
        process = RagProcess(world, "")
        await process.start()
        status = await process.ended()
        left = world.blobs()

    assert status == 1
    assert "the state of nats-server was lost or replaced" in process.log
    assert left == blobs
    assert len(blobs) == 2


async def test_everything_else_starts_where_documents_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "rag").write_text("no folder")
    async with fusion_up(tmp_path) as fusion, connected(fusion.running.nats_url) as bus:
        models = await bus.ask(LIST_MODELS(), ListModels(), patience=20)
        with pytest.raises(LostError) as lost:
            await bus.ask(LIST_COLLECTIONS(), ListCollections())

    assert [card.state for card in models.models] == ["ready"]
    assert lost.value.code == "unavailable"
