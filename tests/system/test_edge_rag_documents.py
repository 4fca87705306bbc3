"""/api/rag/documents, chunks and collections before the real rag actor."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from tests.support.nats import Server
from tests.support.rag_edge import RagEdge, rag_edge

BIRDS = "# Birds\n\nA bird sings in the old tree."


def path_of(document_id: str, collection: str = "default", kind: str = "documents") -> URL:
    """Return the path with all that could mean something else in it escaped."""
    escaped = quote(document_id, safe="").replace(".", "%2E")
    return URL(f"/api/rag/{kind}/{collection}/{escaped}", encoded=True)


def told(reply: Any) -> tuple[int, str | None, str | None]:
    error = reply.body["error"]
    return reply.status, error["code"], error["param"]


async def body_of(rag: RagEdge, path: str) -> tuple[str, bytes]:
    async with rag.edge.http.get(path) as response:
        assert response.status == 200
        return response.headers["Content-Type"], await response.read()


async def test_document_is_put_read_replaced_and_deleted(server: Server, tmp_path: Path) -> None:
    path = "/api/rag/documents/default/birds"
    form = aiohttp.FormData({"metadata": '{"by": "Ada"}', "chunk_size": "16", "overlap": "0"})
    form.add_field("file", BIRDS.encode(), filename="birds.md")
    async with rag_edge(server, tmp_path) as rag:
        first = await rag.ask("PUT", path, data=form)
        card = await rag.ask("GET", path)
        text = await body_of(rag, path + "?content=text")
        source = await body_of(rag, path + "?content=source")
        other = await rag.put_text("default/birds", "The river runs.")
        again = await rag.put_text("default/birds", "The river runs.")
        chunk = await rag.ask("GET", "/api/rag/chunks/default/birds_chunk_0")
        deleted = await rag.ask("DELETE", path)
        gone = [await rag.ask(method, path) for method in ("GET", "DELETE")]
        no_chunk = await rag.ask("GET", "/api/rag/chunks/default/birds_chunk_0")

    assert (first.status, first.body["status"], first.body["chunk_size"]) == (200, "stored", 16)
    assert [reply.body["status"] for reply in (other, again)] == ["replaced", "unchanged"]
    assert (card.body["document_id"], card.body["filename"], card.body["metadata"]["by"]) == (
        "birds",
        "birds.md",
        "Ada",
    )
    assert card.body["chunk_count"] == first.body["chunks_created"]
    assert card.body["stored_at"].endswith("Z")
    assert text == ("text/plain; charset=utf-8", BIRDS.encode())
    assert source == ("application/octet-stream", BIRDS.encode())
    assert (chunk.body["text"], chunk.body["document_id"]) == ("The river runs.", "birds")
    assert deleted.body == {"collection": "default", "document_id": "birds", "chunks_deleted": 1, "status": "deleted"}
    assert [told(reply) for reply in gone] == [(404, "document_not_found", "document_id")] * 2
    assert told(no_chunk) == (404, "chunk_not_found", "chunk_id")


IDS = [
    "notes/2024/birds.md",
    "../../etc/passwd",
    "..",
    "a%2Fb",
    "100%",
    "räksmörgås ☕",
    "a?b#c",
    "'; DROP TABLE x; --",
]


async def test_any_text_can_be_an_id(server: Server, tmp_path: Path) -> None:
    async with rag_edge(server, tmp_path) as rag:
        stored = [await rag.ask("PUT", path_of(each), json={"text": "A bird sings."}) for each in IDS]
        cards = [await rag.ask("GET", path_of(each)) for each in IDS]
        chunks = [await rag.ask("GET", path_of(f"{each}_chunk_0", kind="chunks")) for each in IDS]
        listed = await rag.ask("GET", "/api/rag/collections/default/documents")
        deleted = [await rag.ask("DELETE", path_of(each)) for each in IDS]
        left = await rag.ask("GET", "/api/rag/collections/default/documents")

    for replies in (stored, cards, chunks, deleted):
        assert [reply.body["document_id"] for reply in replies] == IDS
    assert {each["document_id"] for each in listed.body["documents"]} == set(IDS)
    assert left.body["documents"] == []


async def test_name_that_nothing_can_have_is_refused(server: Server, tmp_path: Path) -> None:
    async with rag_edge(server, tmp_path) as rag:
        collection = await rag.ask("PUT", path_of("a", collection="a%20b"), json={"text": "A bird."})
        control = await rag.ask("PUT", path_of("a\nb"), json={"text": "A bird."})
        long = await rag.ask("PUT", path_of("x" * 256), json={"text": "A bird."})
        no_utf8 = await rag.ask("GET", URL("/api/rag/documents/default/%FF", encoded=True))
        unknown = await rag.ask("GET", "/api/rag/documents/nowhere/a")

    assert told(collection) == (400, "invalid_request", "collection")
    assert told(control) == (400, "invalid_request", "document_id")
    assert told(long) == (400, "invalid_request", "document_id")
    assert no_utf8.status == 404
    assert told(unknown) == (404, "collection_not_found", "collection")


async def test_document_that_cannot_be_read_is_refused_with_the_reason(server: Server, tmp_path: Path) -> None:
    form = aiohttp.FormData()
    form.add_field("file", b"%PDF-1.7 and no more", filename="broken.pdf")
    async with rag_edge(server, tmp_path) as rag:
        broken = await rag.ask("PUT", "/api/rag/documents/default/a", data=form)
        empty = await rag.put_text("default/a", "")
        both = await rag.put_text("default/a", "a", chunks=["a"])
        model = await rag.put_text("default/a", "a", embedding_model="local/none")
        overlap = await rag.put_text("default/a", "a", chunk_size=16, overlap=16)
        metadata = [await rag.put_text("default/a", "a", metadata={"x": x}) for x in ("x" * 70_000, 2**64, -(2**64))]
        nothing = await rag.ask("GET", "/api/rag/documents/default/a")

    assert told(broken) == (400, "invalid_request", "file")
    assert told(empty) == (400, "invalid_request", "text")
    assert told(both) == (400, "invalid_request", "text")
    assert told(model) == (404, "model_not_found", "embedding_model")
    assert told(overlap) == (400, "invalid_request", "overlap")
    assert [told(each) for each in metadata] == [
        (413, "too_large", "metadata"),
        (400, "invalid_request", "metadata"),
        (400, "invalid_request", "metadata"),
    ]
    assert nothing.status == 404


async def test_documents_are_listed_in_pages_and_deleted_by_filter(server: Server, tmp_path: Path) -> None:
    path = "/api/rag/collections/default/documents"
    old = '{"year": {"$lt": 2001}}'
    async with rag_edge(server, tmp_path) as rag:
        for number, year in enumerate((1999, 2000, 2001, 2002)):
            await rag.put_text(f"default/{number}", f"The year is {year}.", metadata={"year": year})
        first = await rag.ask("GET", path, params={"limit": 3})
        rest = await rag.ask("GET", path, params={"limit": 3, "after": first.body["next_after"]})
        found = await rag.ask("GET", path, params={"filter": old})
        refused = [
            await rag.ask("DELETE", path),
            await rag.ask("DELETE", path, json={"filter": {}}),
            await rag.ask("DELETE", path, params={"filter": "{}"}),
            await rag.ask("DELETE", path, params={"filter": "[]"}),
            await rag.ask("DELETE", path, params={"filter": "{"}),
            await rag.ask("DELETE", path, params={"filter": '{"year": NaN}'}),
            await rag.ask("DELETE", path, params={"filter": old}, json={"filter": {"year": 1}}),
            await rag.ask("DELETE", path, json={"filter": {"year": {"$near": 1}}}),
            await rag.ask("GET", path, params={"filter": "x"}),
        ]
        limit = await rag.ask("GET", path, params={"limit": 0})
        by_query = await rag.ask("DELETE", path, params={"filter": old})
        by_body = await rag.ask("DELETE", path, json={"filter": {"year": 2002}})
        left = await rag.ask("GET", path)

    ids = [[each["document_id"] for each in reply.body["documents"]] for reply in (first, rest, found, left)]
    assert ids == [["0", "1", "2"], ["3"], ["0", "1"], ["2"]]
    assert (first.body["next_after"], rest.body["next_after"]) == ("2", None)
    assert [(reply.status, reply.body["error"]["param"].partition(".")[0]) for reply in refused] == [
        (400, "filter")
    ] * len(refused)
    assert told(limit) == (400, "invalid_request", "limit")
    assert (by_query.body["documents_deleted"], by_query.body["document_ids"]) == (2, ["0", "1"])
    assert (by_body.body["documents_deleted"], by_body.body["chunks_deleted"]) == (1, 1)


async def test_collection_tells_how_it_stands_and_ends(server: Server, tmp_path: Path) -> None:
    path = "/api/rag/collections/nature"
    async with rag_edge(server, tmp_path) as rag:
        await rag.put_text("nature/birds", BIRDS)
        card = await rag.ask("GET", path)
        health = await rag.ask("GET", f"{path}/health")
        rebuilt = await rag.post(f"{path}/rebuild")
        verified = await rag.post(f"{path}/verify")
        foreign = await rag.post(f"{path}/rebuild", data="x", headers={"Content-Type": "text/plain"})
        some = '{"year": 2020}'
        kept = [
            await rag.ask("DELETE", path, params={"filter": some}),
            await rag.ask("DELETE", path, data=f'{{"filter": {some}}}', headers={"Content-Type": "application/json"}),
        ]
        deleted = await rag.ask("DELETE", path)
        gone = [
            await rag.ask(method, path + more)
            for method, more in (
                ("GET", ""),
                ("GET", "/health"),
                ("GET", "/documents"),
                ("DELETE", ""),
                ("POST", "/rebuild"),
                ("POST", "/verify"),
            )
        ]

    assert (card.body["name"], card.body["document_count"], card.body["index"]["state"]) == ("nature", 1, "ready")
    assert (health.body["status"], health.body["index"]) == ("healthy", card.body["index"])
    assert rebuilt.body["index"]["vectors"] == card.body["chunk_count"]
    assert foreign.status == 400
    assert (verified.body["status"], verified.body["problems"]) == ("consistent", [])
    assert [told(reply) for reply in kept] == [(400, "unsupported_parameter", "filter")] * 2
    assert (deleted.body["documents_deleted"], deleted.body["status"]) == (1, "deleted")
    assert [told(reply) for reply in gone] == [(404, "collection_not_found", "collection")] * len(gone)
