"""Searches in the rag actor that is asked over the bus."""

from pathlib import Path

from tests.support.nats import Server
from tests.support.rag_world import rag_actor, rag_world


async def test_search_finds(server: Server, tmp_path: Path) -> None:
    async with rag_world(server, tmp_path) as world, rag_actor(world):
        await world.ingest(world.texts(a="a bird sings in the old tree", b="the river runs cold and fast"))
        found = await world.search("cold river")

    assert [hit.document_id for hit in found.hits] == ["b", "a"]
