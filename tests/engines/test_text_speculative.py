import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from actors.engines.text import TextEngine
from actors.engines.text_generator import build, insert
from actors.engines.text_model import TextLimits, load_model
from actors.engines.text_prompt import TextWork
from actors.engines.text_row import Row
from actors.engines.text_sampling import Penalties, Sampling
from actors.engines.text_speculative import Alone
from actors.engines.thread import EngineThread
from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, Message, Usage
from tests.support import tiny_models

pytestmark = pytest.mark.asyncio(loop_scope="session")

WORK = TextWork(
    prompt=[5, 6, 7], max_tokens=200, sampling=Sampling(temperature=0), penalties=Penalties(), seed=None, stop=()
)
PROMPTS = ("Contribution", "You may reproduce and distribute copies of the", "W")


@asynccontextmanager
async def running(path: Path, draft: Path | None) -> AsyncGenerator[TextEngine]:
    engine = TextEngine(path, TextLimits(draft=draft, max_batch=4))
    await engine.load()
    try:
        yield engine
    finally:
        await engine.unload()


@pytest.fixture(scope="session")
def other_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tokenizer and other weights: nearly all that it proposes is wrong."""
    return tiny_models.llama(tmp_path_factory.mktemp("models") / "other-llama", seed=1)


def greedy(prompt: str, max_tokens: int = 48, **settings: Any) -> ChatRequest:
    return ChatRequest(prompt=prompt, max_tokens=max_tokens, temperature=0, **settings)


async def said(engine: TextEngine, request: ChatRequest) -> tuple[str, str | None, Usage]:
    return whole([chunk async for chunk in engine.generate(engine.prepare(request))])


def whole(chunks: list[ChatChunk]) -> tuple[str, str | None, Usage]:
    """Return text, reason and usage: into which pieces the text is cut may differ."""
    last = chunks[-1]
    assert last.usage
    return "".join(chunk.text for chunk in chunks), last.finish_reason, structs.replace(last.usage, cached_tokens=0)


@pytest.fixture(params=["same", "other"])
def draft(request: pytest.FixtureRequest, tiny_llama: Path, other_llama: Path) -> Path:
    return {"same": tiny_llama, "other": other_llama}[request.param]


async def test_greedy_text_is_that_of_the_model_alone_whatever_is_proposed(
    text_engine: TextEngine, tiny_llama: Path, draft: Path
) -> None:
    async with running(tiny_llama, draft) as engine:
        for prompt in PROMPTS:
            assert await said(engine, greedy(prompt)) == await said(text_engine, greedy(prompt))


async def test_text_that_is_joined_by_others_goes_on_as_before(
    text_engine: TextEngine, tiny_llama: Path, draft: Path
) -> None:
    expected = [await said(text_engine, greedy(prompt, 64)) for prompt in PROMPTS]

    async with (
        running(tiny_llama, draft) as engine,
        aclosing(engine.generate(engine.prepare(greedy(PROMPTS[0], 64)))) as first,
    ):
        head = [await anext(first), await anext(first)]
        others = [asyncio.create_task(said(engine, greedy(prompt, 64))) for prompt in PROMPTS[1:]]
        rest = [chunk async for chunk in first]
        found = [whole([*head, *rest]), *(await asyncio.gather(*others))]

    assert found == expected


async def test_text_ends_at_the_end_token_and_at_its_limit(
    text_engine: TextEngine, tiny_llama: Path, tmp_path: Path
) -> None:
    text, *_ = await said(text_engine, greedy(PROMPTS[0], 32))
    ending = text_engine.prepare(ChatRequest(prompt=text)).prompt[-3]
    path = tiny_models.changed(tiny_llama, tmp_path / "ending", config={"eos_token_id": ending})
    async with running(path, None) as plain, running(path, path) as engine:
        for request in (greedy(PROMPTS[0], 32), *(greedy(PROMPTS[1], count) for count in range(1, 8))):
            assert await said(engine, request) == await said(plain, request)


async def test_next_turn_knows_what_was_written_by_both() -> None:
    toy = Path(__file__).parents[2] / "models" / "fusion-toy"
    question = Message(role="user", content="What is Fusion?")
    async with running(toy, toy) as engine:
        text, _, usage = await said(engine, ChatRequest(messages=(question,), temperature=0))
        turns = (question, Message(role="assistant", content=text), question)
        work = engine.prepare(ChatRequest(messages=turns, temperature=0, max_tokens=4))
        *_, last = [chunk async for chunk in engine.generate(work)]

    assert last.usage
    assert last.usage.cached_tokens >= usage.prompt_tokens + usage.completion_tokens - 1


async def test_asker_that_leaves_frees_the_place(text_engine: TextEngine, tiny_llama: Path) -> None:
    async with running(tiny_llama, tiny_llama) as engine:
        async with aclosing(engine.generate(engine.prepare(greedy(PROMPTS[0], 200)))) as left:
            await anext(left)
        assert await said(engine, greedy(PROMPTS[1])) == await said(text_engine, greedy(PROMPTS[1]))


@pytest.mark.parametrize(
    "settings",
    [{"seed": 7, "temperature": 1.0}, {"presence_penalty": 1.0}, {"logit_bias": {7: 5.0}}, {"top_logprobs": 1}],
    ids=lambda settings: next(iter(settings)),
)
async def test_what_depends_on_more_than_the_text_is_written_without_drafts(
    text_engine: TextEngine, tiny_llama: Path, settings: dict[str, Any]
) -> None:
    request = ChatRequest(prompt=PROMPTS[0], max_tokens=24, **({"temperature": 0} | settings))
    async with running(tiny_llama, tiny_llama) as engine:
        assert await said(engine, request) == await said(text_engine, request)


async def test_good_proposals_give_several_tokens_in_one_step_and_bad_ones_are_given_up(
    tiny_llama: Path, other_llama: Path
) -> None:
    def rounds(draft: Path) -> tuple[list[int], bool]:
        model = load_model(tiny_llama, TextLimits(draft=draft))
        assert model.draft is not None
        generator = build(model.model, (), TextLimits())
        row = Row(WORK)
        insert(generator, row)
        while not row.written:
            row.written += [response.token for response in generator.next()[1]]
        alone = Alone(row, generator, model.model, model.draft, ())
        return [len(alone.write()) for _ in range(20)], alone.is_worthwhile

    thread = EngineThread("rounds")
    thread.start()
    good, bad = await thread.call(rounds, tiny_llama), await thread.call(rounds, other_llama)
    await thread.close()

    assert good == ([4] * 20, True)
    assert bad[1] is False


async def test_draft_model_with_other_words_is_refused(tiny_llama: Path, tiny_thinker: Path) -> None:
    with pytest.raises(RefusedError, match="another vocabulary") as refused:
        async with running(tiny_llama, tiny_thinker):
            pass

    assert refused.value.failure.param == "draft_model"
