"""Documents come and go by the rag actor that is asked over the bus."""

from pathlib import Path

from tests.support.nats import Server
from tests.support.rag_world import MODEL, rag_actor, rag_world


async def test_stored_documents_are_there_and_deleted_ones_are_gone(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        told = await world.progress(world.texts(a="a bird sings in the old tree", b="the river runs cold and fast"))
        before = await world.documents()
        [card] = (await world.collections()).collections
        verified = await world.verified()
        deleted = await world.delete(document_id="a")
        after = await world.documents()
        blobs = world.blobs()

    assert [(each.done, each.total) for each in told] == [(1, 2), (2, 2), (2, 2)]
    assert {each.document.document_id for each in told[:-1] if each.document} == {"a", "b"}
    assert told[-1].result is not None
    assert [one.status for one in told[-1].result.documents] == ["stored", "stored"]
    assert set(before) == {"a", "b"}
    assert (card.document_count, card.chunk_count, card.embedding_model) == (2, 2, MODEL)
    assert (card.index.rows, card.index.vectors, card.index.lag) == (2, 2, 0)
    assert verified.problems == ()
    assert (deleted.document_ids, deleted.documents_deleted, deleted.chunks_deleted) == (("a",), 1, 1)
    assert set(after) == {"b"}
    assert blobs == {after["b"].source_blob, after["b"].contents_blob}
