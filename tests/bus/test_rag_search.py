"""Searches in the rag actor that is asked over the bus."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.engines.echo import EchoReranker
from bus.errors import BusError, LostError, RefusedError
from bus.messages.rag import EvaluateSearch, Evaluation, Judged
from bus.messages.rag_documents import DocumentSource, IngestDocuments
from bus.serve import serving
from bus.subjects import EVALUATE_SEARCH
from tests.support.nats import Server, service
from tests.support.rag_world import KEY, RagWorld, Words, rag_actor, rag_world, vector
from tests.support.stack import RERANK_CARD, RERANK_MODEL, rerank_actor

TEXTS = {
    "bird": "a bird sings in the old tree",
    "river": "the river runs cold and fast",
    "tree": "the old tree and the river",
}


@asynccontextmanager
async def searching(server: Server, folder: Path, **settings: Any) -> AsyncGenerator[RagWorld]:
    """Run the rag actor with three documents."""
    async with rag_world(server, folder) as world, rag_actor(world, **settings):
        await world.ingest(world.texts(**TEXTS))
        yield world


def collection(name: str, model: str | None = None, **texts: str) -> IngestDocuments:
    """Return the order to store these texts by their ids, each with its first word in the metadata."""
    sources = tuple(
        DocumentSource(document_id=each, text=text, metadata={"first": text.split()[0]}) for each, text in texts.items()
    )
    return IngestDocuments(collection=name, documents=sources, embedding_model=model)


async def refusal(world: RagWorld, **fields: Any) -> tuple[str, str | None]:
    with pytest.raises(BusError) as refused:
        await world.search(**({"query": "river"} | fields))
    return refused.value.code, refused.value.failure.param


async def test_each_mode_finds_what_it_is_for(server: Server, tmp_path: Path) -> None:
    async with searching(server, tmp_path) as world:
        hybrid = await world.search("cold river", parent=True)
        convex = await world.search("cold river", fusion="convex")
        dense = await world.search("cold river", mode="dense", top_k=2)
        words = await world.search("cold river", mode="bm25")
        near = await world.search("cold river", similarity_threshold=0.4)
        await world.delete(document_id="river")
        after = await world.search("cold river")

    first = hybrid.hits[0]
    assert [hit.document_id for hit in hybrid.hits] == ["river", "tree", "bird"]
    assert first.score == pytest.approx(2 / 61)
    assert first.cosine == pytest.approx(float(vector("cold river") @ vector(TEXTS["river"])), abs=1e-3)
    assert (first.chunk_id, first.text, first.start, first.end) == ("river_chunk_0", TEXTS["river"], 0, 28)
    assert first.parent is not None
    assert first.parent.text == TEXTS["river"]
    assert hybrid.seconds.embedding > 0
    assert hybrid.seconds.total >= max(hybrid.seconds.dense, hybrid.seconds.bm25)
    assert (hybrid.degraded, hybrid.warnings) == (False, ())
    assert convex.hits[0].score == pytest.approx(1.0)
    assert [hit.score for hit in dense.hits] == [hit.cosine for hit in dense.hits]
    assert len(dense.hits) == 2
    assert [hit.document_id for hit in words.hits] == ["river", "tree"]
    assert [(hit.score == hit.bm25, hit.cosine) for hit in words.hits] == [(True, None)] * 2
    assert [hit.document_id for hit in near.hits] == ["river"]
    assert [hit.document_id for hit in after.hits] == ["tree", "bird"]


async def test_a_search_names_what_is_wrong_with_it(server: Server, tmp_path: Path) -> None:
    async with searching(server, tmp_path, private_collections=True) as world:
        found = [
            await refusal(world, collections=("default", "none")),
            await refusal(world, key=KEY),
            await refusal(world, filter={"year": {"$near": 1}}),
            await refusal(world, mode="bm25", similarity_threshold=0.5),
            await refusal(world, embedding=(1.0, 2.0)),
            await refusal(world, embedding=(0.0,) * 64),
            await refusal(world, rerank_model="local/none"),
            await refusal(world, rerank_model="local/words"),
        ]

    assert found == [
        ("collection_not_found", "collections"),
        ("collection_not_found", "collections"),
        ("invalid_request", "filter"),
        ("invalid_request", "similarity_threshold"),
        ("invalid_request", "embedding"),
        ("invalid_request", "embedding"),
        ("model_not_found", "rerank_model"),
        ("invalid_request", "rerank_model"),
    ]


async def test_several_collections_are_searched_as_one(server: Server, tmp_path: Path) -> None:
    async with searching(server, tmp_path) as world:
        other = Words(tmp_path / "model", model="local/other")
        world.words.cards.append(other.card)
        async with serving(world.bus, service("other", instance="other-1"), *other.endpoints[:1]):
            await world.ingest(collection("same", river=TEXTS["river"], cold="cold water"))
            await world.ingest(collection("other", "local/other", ice="cold as ice"))
            same = await world.search("cold river", collections=("default", "same"), mode="dense")
            every = await world.search("cold river", collections=("default", "same", "other", "same"))
            filtered = await world.search("cold river", collections=("same", "other"), filter={"first": "cold"})
            several = await refusal(world, collections=("same", "other"), embedding=tuple(map(float, vector("a"))))
            asked = len(world.words.asked)
            given = await world.search(
                "cold river", collections=("same",), embedding=tuple(map(float, vector("cold water")))
            )

    assert [hit.score for hit in same.hits] == [hit.cosine for hit in same.hits]
    assert [hit.collection for hit in every.hits].count("other") == 1
    assert [hit.text for hit in every.hits].count(TEXTS["river"]) == 1
    assert {hit.document_id for hit in every.hits} == {"river", "tree", "bird", "cold", "ice"}
    assert {hit.document_id for hit in filtered.hits} == {"cold", "ice"}
    assert several == ("invalid_request", "embedding")
    assert {hit.document_id: hit.cosine for hit in given.hits}["cold"] == pytest.approx(1.0, abs=1e-3)
    assert len(world.words.asked) == asked


async def test_what_fails_is_told_and_the_rest_answers(server: Server, tmp_path: Path) -> None:
    query = "old river tree"
    async with searching(server, tmp_path) as world:
        world.words.cards.append(RERANK_CARD)
        async with rerank_actor(world.bus, EchoReranker()):
            reranked = await world.search(query, rerank_model=RERANK_MODEL)
        unranked = await world.search(query, rerank_model=RERANK_MODEL)
        world.words.fail(LostError("crashed", "The model is gone."), LostError("crashed", "The model is gone."))
        words = await world.search(query, similarity_threshold=0.99)
        dense = await refusal(world, query=query, mode="dense")

    assert [(hit.document_id, hit.score, hit.rerank) for hit in reranked.hits] == [
        ("tree", 1.0, 1.0),
        ("bird", pytest.approx(2 / 3), pytest.approx(2 / 3)),
        ("river", pytest.approx(1 / 3), pytest.approx(1 / 3)),
    ]
    assert reranked.seconds.rerank > 0
    assert unranked.hits[0].rerank is None
    assert unranked.degraded
    assert RERANK_MODEL in unranked.warnings[0]
    assert [(hit.score == hit.bm25, hit.cosine) for hit in words.hits] == [(True, None)] * 3
    assert words.degraded
    assert "without the similarity_threshold: The model is gone." in words.warnings[0]
    assert dense == ("crashed", None)


async def evaluation(world: RagWorld, *queries: Judged, **fields: Any) -> Evaluation:
    async with world.bus.stream(EVALUATE_SEARCH(), EvaluateSearch(queries=queries, **fields)) as answer:
        [found] = [item async for item in answer if isinstance(item, Evaluation)]
        return found


async def test_evaluation_counts_documents_and_hides_no_failure(server: Server, tmp_path: Path) -> None:
    queries = (
        Judged(query="cold river", relevant={"river": 2, "bird": 0, "gone": 1}),
        Judged(query="old tree", relevant={"river": 1}, embedding=tuple(map(float, vector("old tree")))),
    )
    async with searching(server, tmp_path) as world:
        # A document of several chunks counts once, by its best.
        await world.ingest(world.texts(long="cold river " * 60))
        found = await evaluation(world, *queries, mode="bm25", k=2)
        with pytest.raises(RefusedError) as refused:
            await evaluation(world, queries[0], Judged(query="a", relevant={"a": 0}))
        world.words.fail(LostError("crashed", "The model is gone."))
        with pytest.raises(LostError, match="The model is gone"):
            await evaluation(world, queries[0])

    # The long document is first for the first query, and river second; for the second it is tree, then bird.
    assert (found.queries, found.k) == (2, 2)
    assert found.recall == pytest.approx((1 / 2 + 0) / 2)
    assert found.mrr == pytest.approx((1 / 2 + 0) / 2)
    assert found.ndcg == pytest.approx(0.6309 / 1.6309 / 2, abs=1e-3)
    assert 0 < found.seconds_p50 <= found.seconds_p95
    assert refused.value.failure.param == "queries[1].relevant"
