"""Documents that come while others are deleted, by the rag actor that is asked over the bus."""

import asyncio
from pathlib import Path

import msgspec

from bus.errors import RefusedError
from bus.messages.rag_documents import (
    CHUNKS_TYPE,
    CollectionRemoved,
    DeleteCollection,
    DocumentSource,
    GivenChunk,
    IngestDocuments,
)
from bus.subjects import DELETE_COLLECTION
from tests.support.nats import Server, until_it
from tests.support.rag_world import RagWorld, rag_actor, rag_world, vector


def document(number: int, **metadata: object) -> DocumentSource:
    """Return one that is stored fast."""
    text = f"a bird of {number}"
    chunks = [GivenChunk(text=text, embedding=tuple(vector(text).tolist()))]
    content = msgspec.json.encode(chunks).decode()
    return DocumentSource(document_id=f"d{number:03}", text=content, content_type=CHUNKS_TYPE, metadata=metadata)


async def test_document_that_a_filter_is_no_longer_true_of_is_not_deleted(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        await world.ingest(IngestDocuments(documents=tuple(document(number, old=True) for number in range(250))))

        async def has_begun() -> bool:
            return "d000" not in await world.documents()

        deleting = asyncio.create_task(world.delete(filter={"old": True}))
        await until_it(has_begun)
        await world.ingest(IngestDocuments(documents=(document(249, old=False),)))
        await deleting
        cards = await world.documents()

    assert [card.metadata for card in cards.values()] == [{"old": False}]


async def test_nothing_is_left_of_what_came_while_its_collection_was_deleted(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        for turn in range(5):
            orders = [IngestDocuments(documents=(document(100 * turn + number),)) for number in range(10)]
            await world.ingest(orders[0])
            await asyncio.gather(*map(world.ingest, orders), removed(world), removed(world), return_exceptions=True)
        await removed(world)
        blobs = world.blobs()

    assert blobs == set()


async def removed(world: RagWorld) -> CollectionRemoved | None:
    """Delete the collection, if it is there."""
    try:
        return await world.bus.ask(DELETE_COLLECTION(), DeleteCollection(collection="default"))
    except RefusedError:
        return None
