"""Reranking, as the official client of Cohere and by hand."""

import inspect
import io
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import cohere
import pytest_asyncio

from actors.engines.echo import EchoReranker
from http_edge.routes import rerank
from tests.support.envelope import error_of
from tests.support.models_owner import catalogue
from tests.support.stack import CARDS, CHAT_MODEL, RERANK_CARD, RERANK_MODEL, Stack, rerank_actor, stack

QUERY = "old bird"
DOCUMENTS = ("a river", "the old bird sings", "an old tree")
BODY: dict[str, Any] = {"model": RERANK_MODEL, "query": QUERY, "documents": DOCUMENTS}


@pytest_asyncio.fixture
async def edge(nats_url: str, tmp_path: Path) -> AsyncGenerator[Stack]:
    async with (
        stack(nats_url, tmp_path) as edge,
        rerank_actor(edge.bus, EchoReranker()),
        catalogue(edge.bus, (*CARDS, RERANK_CARD)),
    ):
        yield edge


async def reranked(edge: Stack, path: str = "/v1/rerank", **more: Any) -> dict[str, Any]:
    async with edge.http.post(path, json=BODY | more) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def test_clients_of_cohere_get_the_best_documents_first(edge: Stack) -> None:
    async with cohere.AsyncClientV2("none", base_url=edge.url) as client:
        second = await client.rerank(model=RERANK_MODEL, query=QUERY, documents=DOCUMENTS, top_n=2)
    async with cohere.AsyncClient("none", base_url=edge.url) as client:
        first = await client.rerank(
            model=RERANK_MODEL,
            query=QUERY,
            documents=[DOCUMENTS[0], {"text": DOCUMENTS[1], "title": "Birds"}],
            return_documents=True,
        )

    assert [(each.index, each.relevance_score) for each in second.results] == [(1, 1.0), (2, 0.5)]
    assert second.id is not None
    documents = [each.document for each in first.results]
    assert [document and document.model_dump() for document in documents] == [
        {"text": DOCUMENTS[1], "title": "Birds"},
        {"text": DOCUMENTS[0]},
    ]


def test_all_that_the_clients_may_say_is_known() -> None:
    calls = (cohere.AsyncClient.rerank, cohere.AsyncClientV2.rerank)
    said = {name for call in calls for name in inspect.signature(call).parameters}

    assert said - {"self", "request_options"} <= set(rerank.Body.__struct_fields__)


async def test_every_path_answers_alike_and_tells_what_was_read(edge: Stack) -> None:
    answers = [await reranked(edge, path) for path in ("/v1/rerank", "/v2/rerank", "/rerank")]

    for answer in answers:
        assert answer.pop("id").startswith("rerank-")
        assert answer == {
            "model": RERANK_MODEL,
            "results": [
                {"index": 1, "relevance_score": 1.0},
                {"index": 2, "relevance_score": 0.5},
                {"index": 0, "relevance_score": 0.0},
            ],
            "usage": {"prompt_tokens": 15, "total_tokens": 15},
        }


async def test_more_documents_than_a_message_holds_keep_their_numbers(edge: Stack) -> None:
    documents = ["river " * 100 + "x" * 1000] * 600
    documents[17], documents[-1] = "word " * 513, "bird"
    answer = await reranked(edge, documents=documents, truncate=True)
    documents[-1] = "word " * 513
    async with edge.http.post("/v1/rerank", json=BODY | {"documents": documents[20:]}) as response:
        error = await error_of(response)

    assert [each["index"] for each in answer["results"]] == [599, *range(599)]
    assert answer["truncated"] == [17]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "documents[579]")
    assert "documents[579]" in error["message"]


WRONG: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"query": ""}, "invalid_request", "query"),
    ({"query": "x" * 1_100_000}, "too_large", "query"),
    ({"documents": []}, "invalid_request", "documents"),
    ({"documents": ["x", 7]}, "invalid_request", "documents[1]"),
    ({"documents": ["x", {"title": "y"}]}, "invalid_request", "documents[1].text"),
    (
        {"documents": ["x", {"text": "y", "image": "https://example.com/y.png"}]},
        "unsupported_parameter",
        "documents[1].image",
    ),
    ({"documents": ["x", {"image": "https://example.com/y.png"}]}, "unsupported_parameter", "documents[1].image"),
    ({"query": {"image": "https://example.com/y.png"}}, "unsupported_parameter", "query.image"),
    ({"query": {"text": ""}}, "invalid_request", "query.text"),
    ({"query": {}}, "invalid_request", "query.text"),
    ({"query": "word " * 250_000}, "too_large", "query"),
    ({"documents": ["x", "word " * 250_000]}, "too_large", "documents[1]"),
    ({"instruction": "x" * 1_100_000}, "too_large", "instruction"),
    ({"documents": ["x", "word " * 513]}, "context_length_exceeded", "documents[1]"),
    ({"top_n": 0}, "invalid_request", "top_n"),
    ({"instruction": ""}, "invalid_request", "instruction"),
    ({"max_tokens_per_doc": 0}, "invalid_request", "max_tokens_per_doc"),
    ({"max_chunks_per_doc": 10}, "unsupported_parameter", "max_chunks_per_doc"),
    ({"rank_fields": ["title"]}, "unsupported_parameter", "rank_fields"),
    ({"priority": 1}, "unsupported_parameter", "priority"),
    ({"relevant_spans": {}}, "unsupported_parameter", "relevant_spans"),
    ({"mood": 1}, "unsupported_parameter", "mood"),
    ({"model": CHAT_MODEL}, "invalid_request", "model"),
    ({"model": "nobody"}, "model_not_found", "model"),
)


async def test_what_cannot_be_honoured_is_named(edge: Stack) -> None:
    told = []
    for more, _, _ in WRONG:
        # aiohttp warns of bytes this large.
        body, kind = io.BytesIO(json.dumps(BODY | more).encode()), {"Content-Type": "application/json"}
        async with edge.http.post("/v1/rerank", data=body, headers=kind) as response:
            told.append(await error_of(response))

    assert [(error["code"], error["param"]) for error in told] == [(code, param) for _, code, param in WRONG]
    assert told[-2]["message"] == f"The model {CHAT_MODEL!r} is for chat, not for rerank."


async def test_what_changes_nothing_is_accepted(edge: Stack) -> None:
    plain = await reranked(edge)
    same = await reranked(
        edge, query={"text": QUERY}, priority=0, rank_fields=["text"], user="me", truncate=False, return_documents=False
    )

    assert plain | {"id": ""} == same | {"id": ""}
