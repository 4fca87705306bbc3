"""Documents and questions as a new user has them: the whole system, real files, real models, the command and HTTP."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from bus.messages.rag_documents import DocumentSource, IngestDocuments
from tests.support.cli import Printed
from tests.support.cli import fusion as run_fusion
from tests.support.nats import server_running
from tests.support.processes import Fusion, fusion_up
from tests.support.rag_edge import rag_edge
from tests.support.rag_says import Says
from tests.support.rag_world import RagWorld
from tests.support.small_library import FACTS, Fact, write_small_library
from tests.support.sse import rest
from tests.support.stack import CARDS, chat_actor

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = """
actors: {slots: 0}
models:
  - {id: all-MiniLM-L6-v2, path: "embedded:minilm", kind: embeddings, tier: 0}
  - {id: fusion-toy, path: "embedded:fusion-toy", kind: chat}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fusion(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Fusion]:
    folder = tmp_path_factory.mktemp("whole")
    library = write_small_library(folder / "library")
    async with fusion_up(folder, CONFIG) as running:
        taken_in = await run_rag(running, "ingest", str(library), "--chunk-size", "32", "--overlap", "0")
        assert (taken_in.status, taken_in.err) == (0, "")
        assert "default: 5 stored, 0 replaced, 0 unchanged, 0 failed" in taken_in.out
        yield running


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.words.replace(" ", "-"))
async def test_passage_that_answers_is_found_first_and_stands_where_it_says(fusion: Fusion, fact: Fact) -> None:
    async with ClientSession(fusion.running.http_url) as http:
        async with http.post("/api/rag/search", json={"query": fact.question}) as response:
            best = (await response.json())["sources"][0]
        text = await text_of(http, best["document_id"])

    assert best["document_id"] == fact.document
    assert fact.words in best["text"]
    assert text[best["start"] : best["end"]] == best["text"]
    assert best.get("pages") == (None if fact.page is None else [fact.page, fact.page])
    assert fact.heading is None or best["headings"][-1] == fact.heading


async def test_answer_streams_behind_its_sources_and_ends_whole(fusion: Fusion) -> None:
    body = {"query": FACTS[0].question, "model_id": "fusion-toy", "stream": True, "max_tokens": 20, "top_k": 3}
    async with ClientSession(fusion.running.http_url) as http, http.post("/api/rag/query", json=body) as response:
        assert response.status == 200
        sent = await rest(response)

    first, last = sent[0], sent[-1]
    assert (first.event, last.event) == ("search_results", "final")
    assert first.data["sources"][0]["document_id"] == FACTS[0].document
    assert len([each for each in sent if each.event == "delta"]) > 1
    assert last.data["answer"] == "".join(each.data["text"] for each in sent if each.event == "delta")
    assert (last.data["model"], last.data["found"]) == ("fusion-toy", True)
    assert {each["number"] for each in last.data["citations"]} <= {1, 2, 3}


async def test_command_asks_and_names_its_sources(fusion: Fusion) -> None:
    asked = await run_rag(fusion, "query", FACTS[0].question, "--top-k", "2")
    verified = await run_rag(fusion, "verify")

    assert asked.status == 0
    assert "\n[1] reports/reactor.pdf, page 2, characters " in asked.out
    assert asked.err.startswith("[fusion-toy: found in ")
    assert verified.out.startswith("default: 5 documents, ")
    assert verified.out.endswith(" chunks, all agrees\n")


async def test_citations_of_an_answer_point_at_what_was_quoted(tmp_path: Path) -> None:
    library = write_small_library(tmp_path / "library")
    says = Says("It was shut down ", "in 1987 [1], and the core ", "has 46 rods [2][9].")
    async with server_running(tmp_path) as server, rag_edge(server, tmp_path) as rag:
        rag.world.words.cards.append(CARDS[0])
        async with chat_actor(rag.world.bus, says):
            await rag.world.ingest(await order(rag.world, library))
            answer = (await rag.post("/api/rag/query", json={"query": "the Kestrel reactor", "top_k": 2})).body
            ids = {each["document_id"] for each in answer["sources"]}
            texts = {each: await text_of(rag.edge.http, each) for each in ids}

    assert [cited["number"] for cited in answer["citations"]] == [1, 2]
    for cited, source in zip(answer["citations"], answer["sources"], strict=True):
        assert (cited["chunk_id"], cited["document_id"]) == (source["chunk_id"], source["document_id"])
        assert texts[cited["document_id"]][cited["start"] : cited["end"]] == source["text"]
        assert cited.get("pages") == source.get("pages")
        assert answer["answer"][cited["answer_start"] : cited["answer_end"]] == f"[{cited['number']}]"
        assert source["text"] in says.asked[0].messages[-1].content


async def order(world: RagWorld, library: Path) -> IngestDocuments:
    """Return the order to store all files of a folder, in chunks of a page or less."""
    sources = []
    for path in sorted(each for each in library.rglob("*") if each.is_file()):
        name = path.relative_to(library).as_posix()
        sources.append(DocumentSource(filename=name, document_id=name, blob=await world.given.put(path.read_bytes())))
    return IngestDocuments(documents=tuple(sources), chunk_size=32, overlap=0)


async def run_rag(fusion: Fusion, *words: str) -> Printed:
    return await run_fusion("rag", words[0], "--state-dir", str(fusion.state), *words[1:])


async def text_of(http: ClientSession, document_id: str) -> str:
    async with http.get(f"/api/rag/documents/default/{document_id}", params={"content": "text"}) as response:
        assert response.status == 200
        return await response.text()
