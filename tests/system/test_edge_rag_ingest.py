"""/api/rag/ingest before the real rag and jobs actors: what is stored, and what is told of it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from http_edge.config import EdgeConfig
from tests.support.nats import Server, until, until_it
from tests.support.rag_edge import RagEdge, rag_edge
from tests.support.rag_world import DIMENSIONS, vector

INGEST = "/api/rag/ingest"
BIRDS = b"# Birds\n\nA bird sings in the old tree."


def form(*files: tuple[str, bytes], name: str = "files", **fields: Any) -> aiohttp.FormData:
    made = aiohttp.FormData(default_to_multipart=True)
    for field, value in fields.items():
        made.add_field(field, str(value))
    for filename, content in files:
        made.add_field(name, content, filename=filename)
    return made


def texts(*said: str, **more: Any) -> dict[str, Any]:
    return {"documents": [{"text": text} for text in said]} | more


def given(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file()]


async def job_ended(rag: RagEdge, url: str) -> dict[str, Any]:
    job: dict[str, Any] = {}

    async def has_ended() -> bool:
        job.update((await rag.ask("GET", url)).body)
        return job["status"] in {"completed", "failed"}

    await until_it(has_ended)
    return job


async def test_files_are_stored_while_the_client_waits(server: Server, tmp_path: Path) -> None:
    async with rag_edge(server, tmp_path) as rag:
        files = form(
            ("birds.md", BIRDS),
            ("river.txt", b"The river runs cold."),
            collection="nature",
            chunk_size=16,
            overlap=4,
            metadata='{"year": 2020}',
            wait="true",
        )
        stored = await rag.post(INGEST, data=files)
        listed = await rag.ask("GET", "/api/rag/collections")
        documents = await rag.ask("GET", "/api/rag/collections/nature/documents")

    assert stored.status == 200
    whole = {name: stored.body[name] for name in ("collection", "documents_ingested", "chunk_size", "overlap")}
    assert whole == {"collection": "nature", "documents_ingested": 2, "chunk_size": 16, "overlap": 4}
    assert stored.body["chunks_created"] == sum(one["chunks"] for one in stored.body["documents"]) >= 2
    assert isinstance(stored.body["embedding_time_ms"], int)
    assert [(one["filename"], one["status"]) for one in stored.body["documents"]] == [
        ("birds.md", "stored"),
        ("river.txt", "stored"),
    ]
    (collection,) = listed.body["collections"]
    assert (collection["name"], collection["document_count"]) == ("nature", 2)
    assert collection["chunk_count"] == stored.body["chunks_created"]
    assert collection["created_at"].endswith("Z")
    assert {one["filename"]: one["metadata"]["year"] for one in documents.body["documents"]} == {
        "birds.md": 2020,
        "river.txt": 2020,
    }


async def test_ingest_is_a_job_unless_the_client_waits(server: Server, tmp_path: Path) -> None:
    async with rag_edge(server, tmp_path) as rag:
        accepted = await rag.post(INGEST, data=form(("birds.md", BIRDS), name="file"))
        job = await job_ended(rag, accepted.body["status_url"])
        events = await rag.ask("GET", accepted.body["events_url"])

    assert (accepted.status, accepted.body["collection"]) == (202, "default")
    assert (job["status"], job["operation"], job["metadata"]) == ("completed", "rag.ingest", {"collection": "default"})
    assert job["result"]["documents"][0]["status"] == "stored"
    assert [event["type"] for event in events.body["events"]] == ["job.queued", "job.started", "job.completed"]


async def test_texts_and_chunks_in_json_are_stored(server: Server, tmp_path: Path) -> None:
    chunks = ["The tide comes in.", {"text": "The tide goes out.", "embedding": vector("tide").tolist()}]
    body = {
        "documents": [
            {"text": "A bird sings.", "document_id": "notes/bird ☕", "metadata": {"by": "Ada"}},
            {"chunks": chunks, "document_id": "tide", "filename": "tide.txt"},
        ],
        "wait": True,
    }
    async with rag_edge(server, tmp_path) as rag:
        stored = await rag.post(INGEST, json=body)
        again = await rag.post("/rag_upsert", json={"documents": body["documents"]})
        chunk = await rag.ask("GET", "/api/rag/chunks/default/tide_chunk_1")
        stats = await rag.ask("GET", "/rag_stats")

    assert [one["status"] for one in stored.body["documents"]] == ["stored", "stored"]
    assert [one["status"] for one in again.body["documents"]] == ["unchanged", "unchanged"]
    assert (again.status, again.body["documents_ingested"]) == (200, 0)
    assert (chunk.body["text"], chunk.body["metadata"]["file"]) == ("The tide goes out.", "tide.txt")
    assert "score" not in chunk.body
    counts = (stats.body["collection_count"], stats.body["document_count"], stats.body["chunk_count"])
    assert counts == (1, 2, 3)


async def test_one_bad_file_does_not_keep_the_others_out(server: Server, tmp_path: Path) -> None:
    bad = ("broken.pdf", b"%PDF-1.7 and no more")
    async with rag_edge(server, tmp_path) as rag:
        some = await rag.post(INGEST, data=form(bad, ("birds.md", BIRDS), wait="true"))
        none = await rag.post(INGEST, data=form(bad, ("empty.txt", b""), wait="true"))

    assert some.status == 200
    assert [one["status"] for one in some.body["documents"]] == ["failed", "stored"]
    assert some.body["documents"][0]["error"]
    assert none.status == 422
    assert [one["status"] for one in none.body["documents"]] == ["failed", "failed"]
    assert (none.body["error"]["param"], none.body["error"]["code"]) == ("files", "invalid_request")
    assert "broken.pdf" in none.body["error"]["message"]


async def test_same_idempotency_key_is_the_same_job(server: Server, tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "once"}
    async with rag_edge(server, tmp_path) as rag:
        first = await rag.post(INGEST, json=texts("A bird sings."), headers=headers)
        again = await rag.post(INGEST, json=texts("A bird sings.", wait=True), headers=headers)
        other = await rag.post(INGEST, json=texts("The river runs."), headers=headers)

    assert again.body["job_id"] == first.body["job_id"]
    assert again.body["documents_ingested"] == 1
    assert (other.status, other.body["error"]["param"]) == (409, "Idempotency-Key")


async def test_client_that_leaves_does_not_end_the_job(server: Server, tmp_path: Path) -> None:
    async with rag_edge(server, tmp_path) as rag:
        rag.world.words.gate.clear()
        headers = {"Idempotency-Key": "left"}
        waiting = asyncio.create_task(rag.post(INGEST, json=texts("A bird sings.", wait=True), headers=headers))
        await until(lambda: bool(rag.world.words.asked))
        waiting.cancel()
        await asyncio.wait((waiting,))
        rag.world.words.gate.set()
        stored = await rag.post(INGEST, json=texts("A bird sings.", wait=True), headers=headers)

    assert waiting.cancelled()
    assert stored.body["documents_ingested"] == 1


async def test_body_that_is_wrong_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    limit = 2000
    file = ("a.txt", b"A bird sings.")
    wrong_forms = [
        (form(collection="a"), 400, "files"),
        (form(file, colour="red"), 400, "colour"),
        (form(file, collection="../a"), 400, "collection"),
        (form(file, chunk_size="many"), 400, "chunk_size"),
        (form(file, chunk_size=3), 400, "chunk_size"),
        (form(file, wait="perhaps"), 400, "wait"),
        (form(file, metadata="[1]"), 400, "metadata"),
        (form(file, metadata="{"), 400, "metadata"),
        (form(file, ("b.txt", b"x" * (limit + 1))), 413, "files"),
        (form(*[(f"{number}.txt", b"x" * limit) for number in range(6)]), 413, "files"),
    ]
    wrong_bodies: list[tuple[Any, int, str | None]] = [
        ({}, 400, "documents"),
        ({"documents": []}, 400, "documents"),
        ({"documents": [{"text": "a"}, {}]}, 400, "documents[1].text"),
        ({"documents": [{"text": "a", "chunks": ["a"]}]}, 400, "documents[0].text"),
        ({"documents": [{"chunks": [""]}]}, 400, "documents[0].chunks[0]"),
        ({"documents": [{"chunks": ["a"], "content_type": "text/plain"}]}, 400, "documents[0].content_type"),
        ({"documents": [{"text": "a", "document_id": "a\nb"}]}, 400, "documents[0].document_id"),
        ({"documents": [{"text": "a", "colour": "red"}]}, 400, "documents[0].colour"),
        (texts("a", collection="a b"), 400, "collection"),
        (texts("a", overlap=-1), 400, "overlap"),
        ({"documents": [{"text": "a", "metadata": {"x": "y" * 1_100_000}}]}, 413, "metadata"),
    ]
    config = EdgeConfig(port=0, drain_seconds=2.0, max_document_bytes=limit, max_ingest_bytes=5 * limit)
    async with rag_edge(server, tmp_path, config) as rag:
        told = []
        for body, _, _ in wrong_forms:
            reply = await rag.post(INGEST, data=body)
            told.append((reply.status, reply.body["error"]["param"]))
        left = given(tmp_path)
        for content, _, _ in wrong_bodies:
            reply = await rag.post_large(INGEST, json.dumps(content).encode())
            told.append((reply.status, reply.body["error"]["param"]))
        collections = await rag.ask("GET", "/api/rag/collections")

    assert told == [(status, param) for _, status, param in [*wrong_forms, *wrong_bodies]]
    assert left == []
    assert collections.body["collections"] == []


def raw_form(head: bytes) -> bytes:
    """Return a form of one part, and that it is to be waited for."""
    wait = b'--x\r\nContent-Disposition: form-data; name="wait"\r\n\r\ntrue\r\n'
    return wait + b"--x\r\nContent-Disposition: form-data; " + head + b"\r\n\r\nA bird sings.\r\n--x--\r\n"


async def test_name_that_is_no_utf8_is_told_as_far_as_it_is(server: Server, tmp_path: Path) -> None:
    kind = "multipart/form-data; boundary=x"
    async with rag_edge(server, tmp_path) as rag:
        file = b'name="file"; filename="V\xf6gel.txt"\r\nContent-Type: text/plain; name=V\xf6gel'
        stored = await rag.post_large(INGEST, raw_form(file), kind)
        unknown = await rag.post_large(INGEST, raw_form(b'name="f\xe4rbung"'), kind)

    assert (stored.status, stored.body["documents"][0]["filename"]) == (200, "V\ufffdgel.txt")
    assert (unknown.status, unknown.body["error"]["param"]) == (400, "f\ufffdrbung")


async def test_what_only_the_actor_can_refuse_is_told_to_who_waits(server: Server, tmp_path: Path) -> None:
    async with rag_edge(server, tmp_path) as rag:
        overlap = await rag.post(INGEST, json=texts("a", chunk_size=16, overlap=16, wait=True))
        model = await rag.post(INGEST, json=texts("a", embedding_model="local/none", wait=True))
        same = [{"document_id": each, "text": text} for each, text in (("a", "one"), ("b", "two"), ("a", "three"))]
        repeated = await rag.post(INGEST, json={"documents": same, "wait": True})

        job = await rag.post(INGEST, json=texts("a", chunk_size=16, overlap=16))
        failed = await job_ended(rag, job.body["status_url"])

    told = overlap.body["error"]
    assert (overlap.status, told["code"], told["param"]) == (400, "invalid_request", "overlap")
    assert "overlap" in told["message"]
    told = model.body["error"]
    assert (model.status, told["code"], told["param"]) == (404, "model_not_found", "embedding_model")
    assert "local/none" in told["message"]
    assert (failed["error_code"], failed["error_param"]) == ("invalid_request", "overlap")
    told = repeated.body["error"]
    assert (repeated.status, told["code"], told["param"]) == (400, "invalid_request", "documents[2].document_id")


async def test_twenty_thousand_parts_are_refused_and_leave_nothing(server: Server, tmp_path: Path) -> None:
    part = '--x\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\n\r\n\r\n'
    body = "".join(part.format(number) for number in range(20_000)) + "--x--\r\n"
    async with rag_edge(server, tmp_path) as rag:
        reply = await rag.post_large(INGEST, body.encode(), "multipart/form-data; boundary=x")

    assert (reply.status, reply.body["error"]["param"]) == (400, "files")
    assert "more than 1000 files" in reply.body["error"]["message"]
    assert given(tmp_path) == []


async def test_upload_that_is_cut_off_leaves_nothing(server: Server, tmp_path: Path) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"x" * 1_000_000
    async with rag_edge(server, tmp_path) as rag:
        _, port = rag.edge.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection("127.0.0.1", int(port))
        about = f"POST {INGEST} HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n"
        writer.write(about.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + head)
        await writer.drain()
        await until(lambda: bool(given(tmp_path)))
        writer.close()
        await writer.wait_closed()
        await until(lambda: not given(tmp_path))
        collections = await rag.ask("GET", "/api/rag/collections")

    assert collections.body["collections"] == []


async def test_collections_of_one_key_are_unknown_to_another(server: Server, tmp_path: Path) -> None:
    ada, bob = ({"Authorization": f"Bearer {key}"} for key in ("ada", "bob"))
    async with rag_edge(server, tmp_path, private_collections=True) as rag:
        job = await rag.post(INGEST, json=texts("A bird sings."), headers=ada)
        await job_ended(rag, job.body["status_url"])
        hers = await rag.ask("GET", "/api/rag/collections", headers=ada)
        his = await rag.ask("GET", "/api/rag/collections", headers=bob)
        looked = await rag.ask("GET", "/api/rag/collections/default", headers=bob)
        replay = await rag.post(f"/v1/jobs/{job.body['job_id']}/replay", json={}, headers=bob)
        replayed = await job_ended(rag, f"/v1/jobs/{replay.body['job_id']}")
        still_his = await rag.ask("GET", "/api/rag/collections", headers=bob)

    assert (replayed["status"], replayed["result"]["documents"][0]["status"]) == ("completed", "unchanged")
    assert still_his.body["collections"] == []
    assert [card["name"] for card in hers.body["collections"]] == ["default"]
    assert his.body["collections"] == []
    assert (looked.status, looked.body["error"]["code"]) == (404, "collection_not_found")


async def test_embedding_of_other_dimensions_is_told_of_its_document(server: Server, tmp_path: Path) -> None:
    short = [{"text": "a", "embedding": [1.0] * (DIMENSIONS - 1)}]
    async with rag_edge(server, tmp_path) as rag:
        reply = await rag.post(INGEST, json={"documents": [{"chunks": short}], "wait": True})

    assert reply.status == 422
    assert "numbers" in reply.body["documents"][0]["error"]
    assert json.dumps(reply.body["error"]["param"]) == '"documents"'


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_wrong_method_is_told_in_this_api(server: Server, tmp_path: Path, method: str) -> None:
    async with rag_edge(server, tmp_path) as rag:
        reply = await rag.ask(method, INGEST)
        unknown = await rag.ask(method, "/api/rag/nothing")

    assert (reply.status, reply.body["error"]["code"]) == (405, "method_not_allowed")
    assert (unknown.status, unknown.body["error"]["code"]) == (404, "unknown_url")
