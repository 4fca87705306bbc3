"""Documents come and go by the rag actor that is asked over the bus."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs

from actors.rag import absent
from actors.rag.contents import decode
from bus.blobs import Blobs
from bus.errors import LostError, RefusedError
from bus.messages.jobs import CancelJob, GetJob, JobProgress
from bus.messages.rag_documents import (
    CHUNKS_TYPE,
    CollectionCard,
    CollectionList,
    DeleteCollection,
    DocumentList,
    DocumentsDeleted,
    DocumentSource,
    GetChunk,
    GetCollection,
    GivenChunk,
    IngestDocuments,
    IngestResult,
    ListCollections,
    ListDocuments,
    RebuildCollection,
)
from bus.subjects import (
    CANCEL_JOB,
    DELETE_COLLECTION,
    GET_CHUNK,
    GET_COLLECTION,
    GET_JOB,
    LIST_COLLECTIONS,
    LIST_DOCUMENTS,
    REBUILD_COLLECTION,
)
from tests.support.jobs import living
from tests.support.nats import Server, until, until_it
from tests.support.rag_world import (
    DIMENSIONS,
    KEY,
    MODEL,
    RagWorld,
    finished,
    jobs_actor,
    rag_actor,
    rag_world,
    submitted,
    vector,
)
from tests.support.tiny_bert import MAX_TOKENS


async def test_stored_documents_are_there_and_deleted_ones_are_gone(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        told = await world.progress(world.texts(a="a bird sings in the old tree", b="the river runs cold and fast"))
        before = await world.documents()
        [card] = (await world.collections()).collections
        verified = await world.verified()
        deleted = await world.delete(document_id="a")
        after = await world.documents()
        blobs = world.blobs()

    assert [(each.done, each.total) for each in told] == [(0, 2), (1, 2), (2, 2), (2, 2)]
    assert {each.document.document_id for each in told if each.document} == {"a", "b"}
    assert told[-1].result is not None
    assert [one.status for one in told[-1].result.documents] == ["stored", "stored"]
    assert set(before) == {"a", "b"}
    assert (card.document_count, card.chunk_count, card.embedding_model) == (2, 2, MODEL)
    assert (card.index.rows, card.index.vectors, card.index.lag) == (2, 2, 0)
    assert verified.problems == ()
    assert (deleted.document_ids, deleted.documents_deleted, deleted.chunks_deleted) == (("a",), 1, 1)
    assert set(after) == {"b"}
    assert blobs == {after["b"].source_blob, after["b"].contents_blob}


async def test_same_document_is_unchanged_and_another_takes_its_place(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        first = await world.ingest(world.texts(a="a bird sings"))
        asked = len(world.words.asked)
        again = await world.ingest(world.texts(a="a bird sings"))
        asked_again = len(world.words.asked)
        other = await world.ingest(world.texts(a="the river runs"))
        cut = await world.ingest(structs.replace(world.texts(a="the river runs"), chunk_size=16, overlap=0))
        [card] = (await world.documents()).values()
        blobs = world.blobs()

    told = [result.documents[0].status for result in (first, again, other, cut)]
    assert told == ["stored", "unchanged", "replaced", "replaced"]
    assert asked_again == asked
    assert (again.documents_ingested, again.chunks_created) == (0, 0)
    assert blobs == {card.source_blob, card.contents_blob}


async def test_same_content_is_one_document_whatever_its_file_is_called(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        blob = await world.given.put(b"# Birds\n\nA bird sings in the old tree.")
        sources = tuple(DocumentSource(filename=name, blob=blob) for name in ("a.md", "b.md"))
        results = [await world.ingest(IngestDocuments(documents=(source,))) for source in sources]
        cards = await world.documents()

    assert [result.documents[0].status for result in results] == ["stored", "unchanged"]
    assert [card.filename for card in cards.values()] == ["a.md"]


async def test_document_that_fails_is_told_and_the_others_are_stored(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        sources = (
            DocumentSource(document_id="good", text="a bird sings"),
            DocumentSource(document_id="gone", blob="0" * 64),
            DocumentSource(document_id="both", blob="0" * 64, text="a"),
            DocumentSource(document_id="neither"),
            DocumentSource(document_id="blank", text=" \n"),
            DocumentSource(document_id="broken", filename="a.pdf", blob=await world.given.put(b"%PDF-1.7 broken")),
            DocumentSource(document_id="fat", text="a", metadata={"much": "x" * 70_000}),
            given("short", GivenChunk(text="a", embedding=(1.0, 2.0))),
            given("zero", GivenChunk(text="a", embedding=(0.0,) * DIMENSIONS)),
            DocumentSource(document_id="odd", content_type=CHUNKS_TYPE, text='[{"txt": "a"}]'),
            DocumentSource(document_id="endless", content_type=CHUNKS_TYPE, text='[{"text": "a", "embedding": [NaN]}]'),
        )
        result = await world.ingest(IngestDocuments(documents=sources))
        cards = await world.documents()
        blobs = world.blobs()

    assert [one.document_id for one in result.documents] == [source.document_id for source in sources]
    assert {one.document_id for one in result.documents if one.status == "stored"} == {"good"} == set(cards)
    assert all(one.code and one.error for one in result.documents[1:])
    assert result.documents_ingested == 1
    assert blobs == {cards["good"].source_blob, cards["good"].contents_blob}


async def test_chunks_and_vectors_that_are_given_are_taken(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        chunks = (
            GivenChunk(text="a bird sings", embedding=tuple((5 * vector("a bird sings")).tolist())),
            GivenChunk(text="the river runs"),
            GivenChunk(text="bird " * (MAX_TOKENS + 1)),
        )
        result = await world.ingest(IngestDocuments(documents=(given("doc", *chunks),)))
        hit = await world.bus.ask(GET_CHUNK(), GetChunk(collection="default", chunk_id="doc_chunk_1"))
        blob = (tmp_path / "rag" / "blobs").glob(f"*/{(await world.documents())['doc'].contents_blob}")
        contents = decode(next(blob).read_bytes())
        verified = await world.verified()

    vectors = np.frombuffer(contents.vectors, "<f2").reshape(3, DIMENSIONS)
    assert [request.input for request in world.words.asked] == [tuple(chunk.text for chunk in chunks[1:])]
    assert (hit.text, hit.score, hit.document_id) == ("the river runs", 0.0, "doc")
    assert np.allclose(vectors[:2], [vector("a bird sings"), vector("the river runs")], atol=2e-3)
    assert (result.chunks_created, result.truncated_chunks) == (3, 1)
    assert verified.problems == ()


async def test_chunks_are_no_longer_than_the_model_reads(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        result = await world.ingest(world.texts(a="a bird sings in the old tree " * 40))

    # Of 48 tokens two are special.
    assert (result.chunk_size, result.overlap) == (MAX_TOKENS - 2, (MAX_TOKENS - 2) // 2)
    assert result.chunks_created > 4
    assert result.truncated_chunks == 0


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"overlap": 64, "chunk_size": 64}, "invalid_request", "overlap"),
        ({"embedding_model": "local/none"}, "model_not_found", "embedding_model"),
    ],
)
async def test_what_is_wrong_with_all_documents_is_refused(
    server: Server, tmp_path: Path, fields: dict[str, Any], code: str, param: str
) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        with pytest.raises(RefusedError) as refused:
            await world.ingest(structs.replace(world.texts(a="a bird sings"), **fields))
        collections = await world.collections()

    assert (refused.value.code, refused.value.failure.param) == (code, param)
    assert collections.collections == ()


async def test_model_that_is_busy_or_gone_is_asked_again(server: Server, tmp_path: Path) -> None:
    errors = (RefusedError("queue_full", "Full.", retry_after=0.01), LostError("restarting", "Soon.", retry_after=0.01))
    async with rag_world(server, tmp_path, *errors) as world, rag_actor(world):
        result = await world.ingest(world.texts(a="a bird sings"))

    assert [one.status for one in result.documents] == ["stored"]
    assert len(world.words.asked) == 3


async def test_private_collections_are_for_their_key_only(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world, private_collections=True):
        await world.ingest(world.texts(mine="a bird sings"), key=KEY)
        await world.ingest(world.texts(theirs="the river runs"))
        ours = await world.collections()
        async with world.bus.stream(LIST_DOCUMENTS(), ListDocuments(collection="default"), key=KEY) as answer:
            [mine] = [item async for item in answer if isinstance(item, DocumentList)]
        async with world.bus.stream(LIST_COLLECTIONS(), ListCollections(), key="key-ffffffffffff") as answer:
            [others] = [item async for item in answer if isinstance(item, CollectionList)]
        theirs = await world.documents()

    assert [(card.name, card.document_count) for card in ours.collections] == [("default", 1)]
    assert [card.document_id for card in mine.documents] == ["mine"]
    assert others.collections == ()
    assert set(theirs) == {"theirs"}


async def test_documents_are_deleted_by_a_filter(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        sources = tuple(
            DocumentSource(document_id=f"d{year}", text=f"a bird of {year}", metadata={"year": year})
            for year in range(2000, 2040)
        )
        await world.ingest(IngestDocuments(documents=sources))
        deleted = await world.delete(filter={"year": {"$gte": 2001}})
        cards = await world.documents()
        verified = await world.verified()
        nothing = await world.delete(filter={"year": 1000})
        blobs = world.blobs()

    assert (deleted.documents_deleted, deleted.chunks_deleted, len(deleted.document_ids)) == (39, 39, 39)
    assert set(cards) == {"d2000"}
    assert len(blobs) == 2
    assert verified.problems == ()
    assert nothing.documents_deleted == 0


async def test_deleted_collection_is_gone_and_a_new_one_is_empty(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        await world.ingest(world.texts(a="a bird sings", b="the river runs"))
        removed = await world.bus.ask(DELETE_COLLECTION(), DeleteCollection(collection="default"))
        blobs = world.blobs()
        with pytest.raises(RefusedError, match="no collection") as refused:
            await world.bus.ask(GET_COLLECTION(), GetCollection(collection="default"))
        await world.ingest(world.texts(c="a cold tree"))
        cards = await world.documents()
        verified = await world.verified()

    assert (removed.documents_deleted, removed.chunks_deleted) == (2, 2)
    assert blobs == set()
    assert refused.value.code == "collection_not_found"
    assert set(cards) == {"c"}
    assert verified.problems == ()


async def test_document_of_a_collection_that_is_deleted_meanwhile_fails(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        world.words.gate.clear()
        storing = asyncio.create_task(world.ingest(world.texts(a="a bird sings")))
        await until(lambda: world.words.asked)
        await world.bus.ask(DELETE_COLLECTION(), DeleteCollection(collection="default"))
        world.words.gate.set()
        result = await storing
        collections = await world.collections()

    assert [(one.status, one.code) for one in result.documents] == [("failed", "conflict")]
    assert collections.collections == ()


async def test_document_that_somebody_else_stores_meanwhile_is_unchanged(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        await world.ingest(world.texts(other="a bird sings"))
        world.words.gate.clear()
        storing = [asyncio.create_task(world.ingest(world.texts(a="the river runs cold"))) for _ in "ab"]
        await until(lambda: len(world.words.asked) == 3)
        world.words.gate.set()
        results = await asyncio.gather(*storing)
        problems = (await world.verified()).problems

    outcomes = [one for result in results for one in result.documents]
    assert sorted(one.status for one in outcomes) == ["stored", "unchanged"]
    assert {(one.document_id, one.chunks) for one in outcomes} == {("a", 1)}
    assert problems == ()


async def test_cancelled_ingest_leaves_what_it_had_stored(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world), jobs_actor(world):
        await world.ingest(world.texts(first="a bird sings"))
        world.words.gate.clear()
        order = world.texts(**{f"d{number}": f"the river {number}" for number in range(20)})
        job = await submitted(world, order)
        await until(lambda: len(world.words.asked) > 1)
        await world.bus.ask(CANCEL_JOB(), CancelJob(job_id=job.job_id))
        ended = await finished(world, job.job_id)
        world.words.gate.set()
        cards = await world.documents()
        again = await world.ingest(order)

    assert ended.status == "cancelled"
    assert set(cards) == {"first"}
    assert {one.status for one in again.documents} == {"stored"}


async def test_ingest_as_a_job_has_the_same_result(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world), jobs_actor(world):
        job = await submitted(world, world.texts(a="a bird sings"))
        ended = await finished(world, job.job_id)

    result = msgspec.json.decode(ended.result, type=IngestResult)
    assert [one.status for one in result.documents] == ["stored"]


async def test_job_tells_how_far_a_long_document_is(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world), jobs_actor(world):
        world.words.gate.clear()
        job = await submitted(world, IngestDocuments(documents=(given("long", *(GivenChunk(text=w) for w in "abc")),)))
        detail = JobProgress(done=0, total=1, message="long: 1 of 3 chunks embedded")
        await until_it(lambda: _says(world, job.job_id, detail))
        world.words.gate.set()
        ended = await finished(world, job.job_id)

    assert msgspec.json.decode(ended.result, type=IngestResult).chunks_created == 3


async def _says(world: RagWorld, job_id: str, progress: JobProgress) -> bool:
    return (await world.bus.ask(GET_JOB(), GetJob(job_id=job_id))).progress == progress


def given(document_id: str, *chunks: GivenChunk) -> DocumentSource:
    text = msgspec.json.encode(chunks).decode()
    return DocumentSource(document_id=document_id, content_type=CHUNKS_TYPE, text=text)


async def test_rag_that_is_not_installed_says_so_also_to_jobs(server: Server, tmp_path: Path) -> None:
    async def on_open() -> None:
        opened.set()

    opened = asyncio.Event()
    async with rag_world(server, tmp_path) as world, jobs_actor(world):
        async with living(absent.child(world.bus, "rag-1", on_open).run()):
            await opened.wait()
            with pytest.raises(LostError, match=r"mlx-fusion\[rag\]"):
                await world.collections()
            with pytest.raises(LostError, match=r"mlx-fusion\[rag\]"):
                await world.ingest(world.texts(a="a bird sings"))
            job = await submitted(world, world.texts(a="a bird sings"))
            ended = await finished(world, job.job_id)

    assert (ended.status, ended.reason) == ("failed", "model_unavailable")
    assert "mlx-fusion[rag]" in (ended.error or "")


async def test_clients_that_change_the_same_documents_at_once_agree_in_the_end(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        await world.ingest(world.texts(a="a bird"))
        changes = [world.ingest(world.texts(a=f"the river {number}", b=f"a tree {number % 2}")) for number in range(6)]
        deletions = [world.delete(document_id="a") for _ in range(3)]
        told = await asyncio.gather(*changes, *deletions, return_exceptions=True)
        cards = await world.documents()
        verified = await world.verified()
        blobs = world.blobs()

    assert all(isinstance(one, IngestResult | DocumentsDeleted) or is_unknown(one) for one in told), told
    assert "b" in cards
    assert verified.problems == ()
    assert blobs == {blob for card in cards.values() for blob in (card.source_blob, card.contents_blob)}


def is_unknown(error: object) -> bool:
    return isinstance(error, RefusedError) and error.code == "document_not_found"


async def test_document_with_the_longest_id_there_can_be_is_kept(server: Server, tmp_path: Path) -> None:
    name = "ü/.*> \u5b57😀" * 28
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        result = await world.ingest(world.texts(**{name: "a bird sings"}))
        deleted = await world.delete(document_id=name)

    assert [one.status for one in result.documents] == ["stored"]
    assert deleted.document_ids == (name,)


async def test_rebuilt_collection_is_as_before(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        await world.ingest(world.texts(a="a bird sings", b="the river runs"))
        async with world.bus.stream(REBUILD_COLLECTION(), RebuildCollection(collection="default")) as answer:
            cards = [item async for item in answer if isinstance(item, CollectionCard)]
        verified = await world.verified()

    assert (cards[-1].index.state, cards[-1].index.vectors, cards[-1].chunk_count) == ("ready", 2, 2)
    assert verified.problems == ()


async def test_what_is_damaged_is_found_by_verifying(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        await world.ingest(world.texts(a="a bird sings", b="the river runs"))
        cards = await world.documents()
        Blobs(world.config.rag_blobs).remove(cards["a"].contents_blob)
        verified = await world.verified()

    assert verified.problems == ("a: its contents are gone or damaged",)
