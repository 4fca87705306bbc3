import asyncio
import gc
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import pytest_asyncio
from msgspec import structs

from actors.chat import ChatActor
from actors.engines.text import TextEngine
from actors.engines.text_batch import TextBatch
from actors.engines.text_memory import KvCost, _Layers
from actors.engines.text_model import TextLimits
from actors.engines.text_prompt import TextWork
from actors.engines.text_sampling import Sampling
from actors.mailbox import Finished, Limits, Mailbox
from bus.errors import BusError, RefusedError
from bus.messages.chat import ChatChunk, ChatRequest
from bus.serve import Caller
from tests.support import tiny_models

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Keys and values in 2 layers of 2 heads of 16 numbers of 4 bytes.
TOKEN = 2 * 2 * 2 * 16 * 4
SHORT, LONG = 256 * TOKEN, 1024 * TOKEN


@pytest_asyncio.fixture(loop_scope="session")
async def engine(tiny_llama: Path, tmp_path: Path) -> AsyncGenerator[TextEngine]:
    """An engine with a context of 2,048, and memory for two rows of up to 1,024 or eight of up to 256 tokens."""
    folder = tiny_models.changed(tiny_llama, tmp_path / "roomy", config={"max_position_embeddings": 2048})
    engine = TextEngine(folder, TextLimits(kv_bytes=2 * LONG, warmup=False))
    await engine.load()
    yield engine
    await engine.unload()


@pytest_asyncio.fixture(loop_scope="session")
async def small_engine(tiny_llama: Path, tmp_path: Path) -> AsyncGenerator[TextEngine]:
    """An engine with a context of 512, and memory for one row of that length or two of up to 256 tokens."""
    folder = tiny_models.changed(tiny_llama, tmp_path / "small", config={"max_position_embeddings": 512})
    engine = TextEngine(folder, TextLimits(kv_bytes=2 * SHORT, warmup=False))
    await engine.load()
    yield engine
    await engine.unload()


def greedy(prompt: tuple[int, ...], max_tokens: int | None = 24) -> ChatRequest:
    return ChatRequest(prompt=prompt, max_tokens=max_tokens, temperature=0)


def batch(engine: TextEngine) -> TextBatch:
    assert engine._parts is not None
    return engine._parts.batch


def endless(prompt: range, max_tokens: int) -> ChatRequest:
    return ChatRequest(prompt=tuple(prompt), max_tokens=max_tokens, temperature=0, logit_bias={1: -100.0})


async def text(engine: TextEngine, request: ChatRequest) -> str:
    return "".join([chunk.text async for chunk in engine.generate(engine.prepare(request))])


async def drain(chunks: AsyncGenerator[ChatChunk]) -> None:
    async for _ in chunks:
        pass


async def test_row_costs_what_the_longest_costs_in_steps_of_256() -> None:
    cost = KvCost((_Layers(10, 10**6), _Layers(3, 512)), row_bytes=7)

    assert cost.of(1, 1) == 7 + 13 * 256
    assert cost.of(3, 257) == 3 * (7 + 13 * 512)
    assert cost.of(1, 2000) == 7 + 10 * 2048 + 3 * 512
    assert cost.most_tokens(7 + 13 * 512, 10**6) == 512
    assert cost.most_tokens(7 + 13 * 256 - 1, 10**6) == 0
    assert cost.most_tokens(10**12, 4096) == 4096


async def test_cost_is_what_mlx_lm_takes(engine: TextEngine) -> None:
    async with aclosing(engine.generate(engine.prepare(greedy(tuple(range(2, 202)), 40)))) as running:
        for _ in range(3):
            await anext(running)
        generator = batch(engine)._generator
        assert generator is not None

        assert generator.prompt_cache_nbytes <= batch(engine)._kv_cost.of(1, 240) == SHORT


async def test_text_that_can_never_fit_is_refused_with_the_numbers(engine: TextEngine) -> None:
    with pytest.raises(RefusedError) as refused:
        engine.prepare(greedy((2, 3), 2046 + 1))
    assert refused.value.code == "context_length_exceeded"

    small = TextEngine(engine._path, TextLimits(kv_bytes=LONG, warmup=False))
    await small.load()
    with pytest.raises(RefusedError) as refused:
        small.prepare(greedy((2, 3), 1023))
    unsaid = small.prepare(greedy((2, 3), None))
    await small.unload()

    assert refused.value.code == "insufficient_memory"
    for number in (1025, 1280 * TOKEN, LONG, 1024):
        assert str(number) in str(refused.value)
    assert unsaid.max_tokens == 1022


async def test_rows_beyond_the_memory_wait_and_end_in_order(small_engine: TextEngine) -> None:
    alone = await text(small_engine, greedy((2, 3, 4), 200))
    ended: list[int] = []
    most = 0

    async def one(number: int) -> str:
        nonlocal most
        said = ""
        async for chunk in small_engine.generate(small_engine.prepare(greedy((2, 3, 4), 200))):
            most = max(most, len(batch(small_engine)._rows))
            said += chunk.text
        ended.append(number)
        return said

    texts = await asyncio.gather(*(one(number) for number in range(5)))

    assert most == 2
    assert ended == [0, 1, 2, 3, 4]
    assert set(texts) == {alone}


async def test_long_text_that_waits_is_not_overtaken(small_engine: TextEngine) -> None:
    began: list[str] = []

    async def one(name: str, prompt: tuple[int, ...], max_tokens: int) -> None:
        async for _ in small_engine.generate(small_engine.prepare(greedy(prompt, max_tokens))):
            if name not in began:
                began.append(name)

    # Beside a row of 400 tokens there is no place for any other.
    await asyncio.gather(
        one("first", (2, 3), 100), one("second", (4, 5), 100), one("long", (6, 7), 400), one("last", (8, 9), 5)
    )

    assert set(began[:2]) == {"first", "second"}
    assert began[2:] == ["long", "last"]


async def test_row_that_leaves_while_it_waits_gives_up_its_turn(small_engine: TextEngine) -> None:
    running = asyncio.create_task(text(small_engine, greedy((2, 3), 500)))
    waiting = [asyncio.create_task(text(small_engine, greedy((4, number), 500))) for number in (5, 6)]
    async with asyncio.timeout(240):
        while len(batch(small_engine)._waiting) < 2:
            await small_engine.ping()

    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    await small_engine.ping()

    assert len(batch(small_engine)._waiting) == 1
    assert await waiting[1] != await running


@pytest.mark.parametrize("how", ["unload", "fault"])
async def test_rows_that_wait_hear_of_the_end_of_the_model_and_outlive_a_fault(
    small_engine: TextEngine, how: str
) -> None:
    broken = structs.replace(
        small_engine.prepare(greedy((2, 3), 500)), sampling=Sampling(top_k=10**6 if how == "fault" else 0)
    )
    rows = [asyncio.create_task(drain(small_engine.generate(broken)))]
    rows += [
        asyncio.create_task(drain(small_engine.generate(small_engine.prepare(greedy((4, 5), 500))))) for _ in range(2)
    ]
    await asyncio.sleep(0)
    if how == "unload":
        await small_engine.unload()

    errors = await asyncio.gather(*rows, return_exceptions=True)

    codes = [error.code if isinstance(error, BusError) else None for error in errors]
    assert codes == (["restarting"] * 3 if how == "unload" else ["internal_error", None, None])


async def test_longest_text_ends_when_several_outgrow_what_was_reserved_for_them(engine: TextEngine) -> None:
    def unlimited(prompt: range, max_tokens: int = 600) -> TextWork:
        return structs.replace(engine.prepare(endless(prompt, max_tokens)), reserved=len(prompt))

    async def one(work: TextWork) -> tuple[str, int]:
        chunks = [chunk async for chunk in engine.generate(work)]
        assert chunks[-1].finish_reason == "length"
        assert chunks[-1].usage is not None
        return "".join(chunk.text for chunk in chunks), chunks[-1].usage.completion_tokens

    alone, _ = await one(unlimited(range(2, 402), 400))
    async with asyncio.TaskGroup() as group:
        works = (engine.prepare(endless(range(300, 302), 500)), unlimited(range(2, 402)), unlimited(range(100, 490)))
        said, longest, other = [group.create_task(one(work)) for work in works]

    # Three rows fit up to 512 tokens or a few more, and two up to 1,024.
    text, written = longest.result()
    assert 100 < written < 400
    assert alone.startswith(text)
    assert [said.result()[1], other.result()[1]] == [500, 600]


async def test_what_is_kept_of_earlier_texts_makes_room_for_the_batch(engine: TextEngine) -> None:
    for first in range(2, 12):
        await text(engine, greedy(tuple(range(first, 200)), 2))
    kept = batch(engine)._prefixes.nbytes

    await text(engine, greedy((2, 3), 1900))

    assert kept > SHORT
    assert batch(engine)._prefixes.nbytes <= 2 * LONG
    assert batch(engine)._prefixes.find(list(range(2, 200))) is None


class Faulty:
    """The chat actor, but the requests with this seed break the engine."""

    SEED = 666

    def __init__(self, engine: TextEngine) -> None:
        self._actor = ChatActor(engine)
        self.receive = self._actor.receive

    async def prepare(self, request: ChatRequest) -> TextWork:
        work = await self._actor.prepare(request)
        return structs.replace(work, sampling=Sampling(top_k=10**6)) if request.seed == self.SEED else work


async def test_memory_and_places_are_flat_after_1000_texts_that_ended_left_or_failed(engine: TextEngine) -> None:
    finished: list[Finished[ChatChunk]] = []
    limits = Limits(concurrency=16, max_queue=1000)
    mailbox = Mailbox(Faulty(engine), limits, finished.append, "test-1")
    chance = random.Random(4)  # noqa: S311 - the same mixture each time
    await _mixed(mailbox, chance, 200)
    before = await _resting(engine)

    await _mixed(mailbox, chance, 1000)
    after = await _resting(engine)

    outcomes = Counter(each.outcome for each in finished)
    assert outcomes.total() == 1200
    assert min(outcomes[each] for each in ("completed", "cancelled", "context_length_exceeded")) > 50
    assert outcomes["internal_error"] == 2
    assert (mailbox.load.running, mailbox.load.queued) == (0, 0)
    assert batch(engine)._rows == {}
    assert not batch(engine)._waiting
    assert batch(engine)._prefixes.nbytes == sum(each.nbytes for each in batch(engine)._prefixes.entries) <= 2 * LONG
    assert after <= before + 2**16


async def _mixed(mailbox: Mailbox[Any, Any, Any], chance: random.Random, count: int) -> None:
    async def one(number: int) -> None:
        kind = chance.choices(("ends", "leaves early", "leaves late", "is refused"), (60, 15, 15, 10))[0]
        prompt = tuple(chance.randrange(2, 500) for _ in range(chance.randrange(1, 60)))
        request = greedy(prompt, 5000 if kind == "is refused" else chance.randrange(1, 12))
        if number == count // 2:
            request = structs.replace(request, max_tokens=4, seed=Faulty.SEED)
        with suppress(RefusedError):
            async with aclosing(mailbox.receive(request, Caller(request_id=str(number)))) as items:
                async for item in items:
                    if kind == "leaves early" or (kind == "leaves late" and isinstance(item, ChatChunk)):
                        break

    await asyncio.gather(*map(one, range(count)))


async def _resting(engine: TextEngine) -> int:
    """Return the bytes that mlx holds besides what is kept of earlier texts."""
    await engine.ping()
    gc.collect()
    return mx.get_active_memory() - batch(engine)._prefixes.nbytes
