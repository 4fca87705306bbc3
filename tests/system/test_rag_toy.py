"""A question that the toy answers from documents: its own tokens, its own context, its own words."""

from pathlib import Path

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from bus.frames import Status
from bus.messages.rag import QueryChunk, QueryDocuments, SearchDocuments
from bus.subjects import QUERY_DOCUMENTS
from tests.support.nats import server_running
from tests.support.rag_world import rag_actor, rag_world
from tests.support.stack import CARDS, CHAT_MODEL, chat_actor

TOY = Path(__file__).parents[2] / "models" / "fusion-toy"


async def test_the_toy_answers_from_as_many_sources_as_it_reads(tmp_path: Path) -> None:
    engine = TextEngine(TOY, TextLimits(warmup=False))
    texts = {f"doc{number}": f"The river {number} runs cold and fast, and the bird sings. " * 2 for number in range(30)}
    search = SearchDocuments(query="How does the river run?", top_k=30)
    asked = QueryDocuments(search=search, max_tokens=40, temperature=0)
    async with (
        server_running(tmp_path) as server,
        rag_world(server, tmp_path) as world,
        chat_actor(world.bus, engine),
        rag_actor(world),
    ):
        world.words.cards.append(CARDS[0])
        await world.ingest(world.texts(**texts))
        async with world.bus.stream(QUERY_DOCUMENTS(), asked) as stream:
            chunks = [item async for item in stream if not isinstance(item, Status)]
    await engine.unload()

    answer = chunks[-1].answer
    assert isinstance(chunks[0], QueryChunk)
    assert chunks[0].results is not None
    assert len(chunks[0].results.hits) == 30
    assert answer is not None
    assert (answer.error, answer.model, answer.found) == (None, CHAT_MODEL, True)
    assert answer.text == "".join(chunk.text for chunk in chunks)
    assert answer.usage is not None
    assert 1024 - 40 - 100 < answer.usage.prompt_tokens <= 1024 - 40
    assert "sources: more do not fit" in answer.warnings[0]
    assert all(answer.text[one.answer_start] == "[" for one in answer.citations)
