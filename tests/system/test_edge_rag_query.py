"""/api/rag/search, query and eval before the real rag actor, and chat models of a few lines."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from actors.engines.echo import EchoReranker
from actors.rag import absent
from actors.rag.prompt import NOT_FOUND
from bus.errors import RefusedError
from bus.messages.presence import Heartbeat
from http_edge.config import EdgeConfig
from tests.support.jobs import living
from tests.support.nats import Server, until
from tests.support.rag_edge import RagEdge, rag_edge
from tests.support.rag_says import Gated, Says
from tests.support.rag_world import MODEL, vector
from tests.support.sse import rest
from tests.support.stack import (
    CARDS,
    CHAT_MODEL,
    RERANK_CARD,
    RERANK_MODEL,
    chat_actor,
    rerank_actor,
    stack,
)

QUERY = "/api/rag/query"
SEARCH = "/api/rag/search"
BIRD, RIVER = "a bird sings in the old tree", "the river runs cold and fast"
COLD = {"query": "cold river"}


@asynccontextmanager
async def answering(
    server: Server, folder: Path, engine: Any = None, config: EdgeConfig | None = None
) -> AsyncGenerator[RagEdge]:
    """Serve RAG with two documents, before a chat model if one is given."""
    async with AsyncExitStack() as parts:
        rag = await parts.enter_async_context(rag_edge(server, folder, config))
        if engine is not None:
            rag.world.words.cards.append(CARDS[0])
            await parts.enter_async_context(chat_actor(rag.world.bus, engine))
        await rag.put_text("default/bird", BIRD, filename="bird.txt", metadata={"year": 2020})
        await rag.put_text("default/river", RIVER)
        yield rag


def told(reply: Any) -> tuple[int, str | None, str | None]:
    error = reply.body["error"]
    return reply.status, error["code"], error["param"]


async def test_search_gives_passages_in_the_shape_of_sources(server: Server, tmp_path: Path) -> None:
    async with answering(server, tmp_path) as rag:
        found = await rag.post(SEARCH, json={"query": "old bird", "collection": "default", "top_k": 1, "parent": True})
        more = {"filter": {"year": {"$gte": 2020}}, "mode": "dense", "fusion": "convex", "candidates": 5}
        filtered = await rag.post(SEARCH, json=COLD | more | {"embedding": vector("cold river").tolist()})
        none = await rag.post(SEARCH, json=COLD | {"similarity_threshold": 1, "mode": "dense"})
        rag.world.words.cards.append(RERANK_CARD)
        async with rerank_actor(rag.world.bus, EchoReranker()):
            reranked = await rag.post(SEARCH, json=COLD | {"rerank": RERANK_MODEL})

    (source,) = found.body["sources"]
    assert (source["chunk_id"], source["text"], source["start"], source["end"]) == ("bird_chunk_0", BIRD, 0, len(BIRD))
    assert source["metadata"] == {"file": "bird.txt", "year": 2020}
    assert source["parent"]["text"] == BIRD
    assert 0 < source["score"] <= 1
    assert isinstance(found.body["retrieval_latency_ms"], int)
    assert set(found.body["steps_ms"]) == {"embedding", "dense", "bm25", "rerank"}
    assert (found.body["degraded"], found.body["warnings"]) == (False, [])
    assert [each["document_id"] for each in filtered.body["sources"]] == ["bird"]
    assert (none.status, none.body["sources"]) == (200, [])
    assert reranked.body["sources"][0]["rerank"] == reranked.body["sources"][0]["score"]


async def test_query_is_answered_in_the_shape_of_the_seed(server: Server, tmp_path: Path) -> None:
    engine = Says("It runs cold [1].")
    body = COLD | {"top_k": 1, "model_id": CHAT_MODEL, "max_tokens": 9, "temperature": 0.5, "seed": 3}
    before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    async with answering(server, tmp_path, engine) as rag:
        whole = await rag.post(QUERY, json=body)
        alias = await rag.post("/rag_query", json=COLD | {"include_sources": False, "messages": before})
        unknown = await rag.post(QUERY, json={"query": "zebra", "mode": "bm25"})

    assert whole.status == 200
    assert (whole.body["answer"], whole.body["found"], whole.body["model"]) == ("It runs cold [1].", True, CHAT_MODEL)
    assert [source["document_id"] for source in whole.body["sources"]] == ["river"]
    (citation,) = whole.body["citations"]
    assert (citation["number"], citation["chunk_id"]) == (1, "river_chunk_0")
    assert whole.body["answer"][citation["answer_start"] : citation["answer_end"]] == "[1]"
    assert all(isinstance(whole.body[name], int) for name in ("retrieval_latency_ms", "generation_latency_ms"))
    assert whole.body["usage"]["completion_tokens"] == 1
    assert (engine.asked[0].max_tokens, engine.asked[0].temperature, engine.asked[0].seed) == (9, 0.5, 3)
    assert (alias.body["answer"], alias.body["sources"]) == ("It runs cold [1].", [])
    assert [turn.content for turn in engine.asked[1].messages if turn.content in ("Hello", "Hi")] == ["Hello", "Hi"]
    assert (unknown.body["answer"], unknown.body["found"], unknown.body["sources"]) == (NOT_FOUND, False, [])


async def test_answer_streams_as_named_events(server: Server, tmp_path: Path) -> None:
    async with answering(server, tmp_path, Says("It runs", " cold [1].")) as rag:
        async with rag.edge.http.post(QUERY, json=COLD | {"stream": True}) as response:
            events = await rest(response)
        whole = await rag.post(QUERY, json=COLD)

    assert response.headers["Content-Type"] == "text/event-stream"
    assert [each.event for each in events] == ["search_results", "delta", "delta", "citation", "final"]
    assert [source["document_id"] for source in events[0].data["sources"]] == ["river", "bird"]
    assert "".join(each.data["text"] for each in events if each.event == "delta") == "It runs cold [1]."
    latencies = ("retrieval_latency_ms", "generation_latency_ms")
    assert {name: value for name, value in events[-1].data.items() if name not in latencies} == {
        name: value for name, value in whole.body.items() if name not in latencies
    }
    assert events[-1].data["citations"] == [events[3].data]


async def test_what_was_found_stays_when_the_model_fails(server: Server, tmp_path: Path) -> None:
    failing = Says("It runs", error=RefusedError("insufficient_memory", "There is no room."))
    async with answering(server, tmp_path, failing) as rag:
        whole = await rag.post(QUERY, json=COLD)

    assert (whole.status, whole.body["answer"], whole.body["degraded"]) == (200, "It runs", True)
    assert whole.body["error"]["code"] == "insufficient_memory"
    assert len(whole.body["sources"]) == 2


async def test_without_a_chat_model_what_was_found_is_told(server: Server, tmp_path: Path) -> None:
    async with answering(server, tmp_path) as rag:
        alone = await rag.post(QUERY, json=COLD)

    assert (alone.status, alone.body["answer"], alone.body["error"]["code"]) == (200, "", "model_not_found")
    assert len(alone.body["sources"]) == 2


async def test_silent_stream_has_comments_and_a_client_that_leaves_ends_the_writing(
    server: Server, tmp_path: Path
) -> None:
    engine, config = Gated(), EdgeConfig(port=0, drain_seconds=2.0, sse_comment_seconds=0.05)
    async with answering(server, tmp_path, engine, config) as rag:
        async with rag.edge.http.post(QUERY, json=COLD | {"stream": True}) as response:
            before = await response.content.readuntil(b"event: delta")
            await response.content.readuntil(b"\n: working\n")
            response.close()
        await until(engine.closed.is_set)

    assert before.startswith(b"event: search_results")


async def test_what_is_wrong_with_a_query_is_told_by_its_field(server: Server, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], tuple[int, str, str]]] = [
        ({"query": ""}, (400, "invalid_request", "query")),
        (COLD | {"top_k": 0}, (400, "invalid_request", "top_k")),
        (COLD | {"mode": "sparse"}, (400, "invalid_request", "mode")),
        (COLD | {"collection": "../x"}, (400, "invalid_request", "collection")),
        (COLD | {"collection": "a", "collections": ["b"]}, (400, "invalid_request", "collections")),
        (COLD | {"collections": []}, (400, "invalid_request", "collections")),
        (COLD | {"similarity_threshold": 2}, (400, "invalid_request", "similarity_threshold")),
        (COLD | {"embedding": [1.0]}, (400, "invalid_request", "embedding")),
        (COLD | {"filter": []}, (400, "invalid_request", "filter")),
        (COLD | {"rerank": "local/none"}, (404, "model_not_found", "rerank")),
        (COLD | {"rerank": MODEL}, (400, "invalid_request", "rerank")),
        (COLD | {"collection": "nowhere"}, (404, "collection_not_found", "collection")),
        (COLD | {"collections": ["default", "nowhere"]}, (404, "collection_not_found", "collections")),
        (COLD | {"colour": "red"}, (400, "unsupported_parameter", "colour")),
    ]
    only_query: list[tuple[dict[str, Any], tuple[int, str, str]]] = [
        (COLD | {"model_id": "local/none"}, (404, "model_not_found", "model_id")),
        (COLD | {"model_id": MODEL}, (400, "invalid_request", "model_id")),
        (COLD | {"messages": [{"role": "tool", "content": "x"}]}, (400, "invalid_request", "messages[0].role")),
        (COLD | {"max_tokens": 0}, (400, "invalid_request", "max_tokens")),
        (COLD | {"temperature": 3}, (400, "invalid_request", "temperature")),
        (COLD | {"seed": 2**63}, (400, "invalid_request", "seed")),
        (COLD | {"stream": "yes"}, (400, "invalid_request", "stream")),
    ]
    async with answering(server, tmp_path) as rag:
        searched = [told(await rag.post(SEARCH, json=body)) for body, _ in wrong]
        streamed = [told(await rag.post(QUERY, json={"stream": True} | body)) for body, _ in wrong + only_query]
        large = {"role": "user", "content": "x" * 1_100_000}
        too_large = await rag.post_large(QUERY, json.dumps(COLD | {"messages": [large]}).encode())

    assert searched == [error for _, error in wrong]
    assert streamed == [error for _, error in wrong + only_query]
    assert told(too_large) == (413, "too_large", "messages")


async def test_collection_is_evaluated(server: Server, tmp_path: Path) -> None:
    queries: list[dict[str, Any]] = [
        {"query": "cold river", "relevant": ["river"]},
        {"query": "old bird", "relevant": {"bird": 2, "x": 0}},
    ]
    async with answering(server, tmp_path) as rag:
        found = await rag.post("/api/rag/eval", json={"queries": queries, "k": 1, "mode": "bm25"})
        unknown = await rag.post("/api/rag/eval", json={"queries": queries, "collection": "nowhere"})
        empty = await rag.post("/api/rag/eval", json={"queries": [{"query": "a", "relevant": []}]})
        none = await rag.post("/api/rag/eval", json={"queries": [{"query": "a", "relevant": {"x": 0}}]})
        queries[1]["embedding"] = [1.0]
        short = await rag.post("/api/rag/eval", json={"queries": queries})

    assert {name: found.body[name] for name in ("queries", "k", "ndcg", "recall", "mrr")} == {
        "queries": 2,
        "k": 1,
        "ndcg": 1.0,
        "recall": 1.0,
        "mrr": 1.0,
    }
    assert found.body["latency_p50_ms"] <= found.body["latency_p95_ms"]
    assert told(unknown) == (404, "collection_not_found", "collection")
    assert told(empty) == (400, "invalid_request", "queries[0].relevant")
    assert told(none) == (400, "invalid_request", "queries[0].relevant")
    assert told(short) == (400, "invalid_request", "queries[1].embedding")


async def test_search_ends_with_the_process_that_would_answer_it(server: Server, tmp_path: Path) -> None:
    beat = Heartbeat(instance="rag-1", role="rag", pid=1, at=0.0, state="ready")
    async with answering(server, tmp_path) as rag:
        await rag.edge.bus.publish("fusion.heartbeat.rag-1", beat)
        await until(lambda: beat in rag.edge.edge_bus.presence.instances)
        before = len(rag.world.words.asked)
        rag.world.words.gate.clear()
        searching = asyncio.create_task(rag.post(SEARCH, json=COLD))
        await until(lambda: len(rag.world.words.asked) > before)
        await rag.edge.bus.publish("fusion.heartbeat.rag-1", structs.replace(beat, state="down"))
        found = await searching

    assert told(found) == (503, "crashed", None)


@pytest.mark.parametrize("is_absent", [True, False])
async def test_without_the_rag_actor_it_is_told_why(server: Server, tmp_path: Path, is_absent: bool) -> None:
    beat = Heartbeat(instance="rag-1", role="rag", pid=1, at=0.0, state="ready")
    opened = asyncio.Event()

    async def on_open() -> None:
        opened.set()

    async with stack(server.url, tmp_path) as edge, AsyncExitStack() as parts:
        if is_absent:
            await parts.enter_async_context(living(absent.child(edge.bus, "rag-1", on_open).run()))
            await opened.wait()
            await edge.bus.publish("fusion.heartbeat.rag-1", beat)
            await until(lambda: beat in edge.edge_bus.presence.instances)
        rag = RagEdge(edge, None)  # type: ignore[arg-type]  # nobody is behind it
        replies = [
            await rag.post(SEARCH, json=COLD),
            await rag.post(QUERY, json=COLD | {"stream": True}),
            await rag.post("/api/rag/ingest", json={"documents": [{"text": "a"}]}),
            await rag.ask("GET", "/rag_stats"),
            await rag.put_text("default/a", "a"),
        ]

    assert [told(reply) for reply in replies] == [(503, "unavailable", None)] * len(replies)
    assert all("pip install 'mlx-fusion[rag]'" in reply.body["error"]["message"] for reply in replies)
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
