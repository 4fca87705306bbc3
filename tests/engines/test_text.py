import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import msgspec
import pytest
import pytest_asyncio

from actors.engines.text import TextEngine, _Speech
from actors.engines.text_dialect import Dialect
from actors.engines.text_model import TextLimits
from actors.engines.text_sampling import Penalties, Sampling, logits_processors
from actors.engines.text_split import Splitter
from actors.engines.thread import EngineThread
from bus.errors import BusError, LostError, RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, Usage

pytestmark = pytest.mark.asyncio(loop_scope="session")

MORE_THAN_LOGITS = Sampling(top_k=10**6)


class Reference:
    """mlx-lm's own generation, one text after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = EngineThread("reference")

    async def load(self) -> None:
        self._thread.start()
        self._model, self._tokenizer = await self._thread.call(mlx_lm.load, str(self._path))

    async def greedy(self, prompt: str | tuple[int, ...], max_tokens: int) -> str:
        return await self._thread.call(self._generate, prompt, max_tokens)

    async def close(self) -> None:
        await self._thread.close()

    def _generate(self, prompt: str | tuple[int, ...], max_tokens: int) -> str:
        tokens = prompt if isinstance(prompt, str) else list(prompt)
        responses = mlx_lm.stream_generate(self._model, self._tokenizer, tokens, max_tokens=max_tokens)
        return "".join(response.text for response in responses)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def reference(tiny_llama: Path) -> AsyncGenerator[Reference]:
    reference = Reference(tiny_llama)
    await reference.load()
    yield reference
    await reference.close()


@pytest_asyncio.fixture(loop_scope="session")
async def own_engine(tiny_llama: Path) -> AsyncGenerator[TextEngine]:
    """An engine with two places that reads prompts in small pieces, and which the test may break."""
    engine = TextEngine(tiny_llama, TextLimits(max_batch=2, prefill_step=16))
    await engine.load()
    yield engine
    await engine.unload()


def greedy(prompt: str | tuple[int, ...], max_tokens: int = 24, **settings: Any) -> ChatRequest:
    return ChatRequest(prompt=prompt, max_tokens=max_tokens, temperature=0, **settings)


def sampled(prompt: str, max_tokens: int = 24, **settings: Any) -> ChatRequest:
    return ChatRequest(prompt=prompt, max_tokens=max_tokens, temperature=1.5, **settings)


async def answer(engine: TextEngine, request: ChatRequest) -> tuple[str, ChatChunk]:
    """Return the whole text and the last chunk, having checked that only the last is final."""
    chunks = [chunk async for chunk in engine.generate(engine.prepare(request))]
    assert [chunk.finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(chunk.text for chunk in chunks[:-1])
    return "".join(chunk.text for chunk in chunks), chunks[-1]


async def text(engine: TextEngine, request: ChatRequest) -> str:
    return (await answer(engine, request))[0]


async def drain(chunks: AsyncGenerator[ChatChunk]) -> None:
    async for _ in chunks:
        pass


async def failure(engine: TextEngine, request: ChatRequest) -> BusError:
    """Return the error of a row that breaks the step in which it is sampled."""
    work = msgspec.structs.replace(engine.prepare(request), sampling=MORE_THAN_LOGITS)
    with pytest.raises(BusError) as failed:
        await drain(engine.generate(work))
    return failed.value


async def test_greedy_text_is_that_of_mlx_lm(text_engine: TextEngine, reference: Reference) -> None:
    for prompt in ("The License", "You may", (5, 6, 7), (300,)):
        assert await text(text_engine, greedy(prompt, 64)) == await reference.greedy(prompt, 64)


async def test_greedy_text_is_the_same_among_32_others(text_engine: TextEngine, reference: Reference) -> None:
    prompts = [tuple(range(2, 3 + 5 * number)) for number in range(32)]
    expected = [await reference.greedy(prompt, 10 + number) for number, prompt in enumerate(prompts)]

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(text(text_engine, greedy(prompt, 10 + number))) for number, prompt in enumerate(prompts)
        ]

    assert [task.result() for task in tasks] == expected


async def test_greedy_text_is_the_same_beside_sampled_penalised_and_cancelled_ones(
    text_engine: TextEngine, reference: Reference
) -> None:
    others = (
        sampled("Work", top_p=0.8, seed=3),
        sampled("Licensor", top_k=9, min_p=0.01),
        sampled("Licensor", presence_penalty=1, frequency_penalty=-1, repetition_penalty=1.2),
        greedy("Contribution", logit_bias={7: 5.0}, stop=("never",)),
    )
    async with asyncio.TaskGroup() as group:
        leaving = text_engine.generate(text_engine.prepare(greedy("Source", 200)))
        await anext(leaving)
        watched = group.create_task(text(text_engine, greedy("Object", 60)))
        for other in others:
            group.create_task(text(text_engine, other))
        await anext(leaving)
        await leaving.aclose()

    assert watched.result() == await reference.greedy("Object", 60)


async def test_long_prompts_read_in_pieces_give_the_same_texts(own_engine: TextEngine, reference: Reference) -> None:
    prompts = [tuple(range(2, 2 + length)) for length in (200, 1, 16, 17, 90)]
    expected = [await reference.greedy(prompt, 24) for prompt in prompts]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(text(own_engine, greedy(prompt))) for prompt in prompts]

    assert [task.result() for task in tasks] == expected


async def test_seeded_row_gives_the_same_text_alone_and_in_a_mixed_batch(text_engine: TextEngine) -> None:
    seeded = sampled("You may", top_p=0.95, seed=-42, frequency_penalty=0.5)
    alone = await text(text_engine, seeded)

    async with asyncio.TaskGroup() as group:
        group.create_task(text(text_engine, greedy("Work", 40)))
        group.create_task(text(text_engine, sampled("Work", 3)))
        among = [group.create_task(text(text_engine, seeded)) for _ in range(2)]

    assert [task.result() for task in among] == [alone, alone]
    assert await text(text_engine, msgspec.structs.replace(seeded, seed=42)) != alone


async def test_rows_without_a_seed_differ(text_engine: TextEngine) -> None:
    assert await text(text_engine, sampled("You may")) != await text(text_engine, sampled("You may"))


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 0.0}, {"top_p": 1e-9}, {"min_p": 1.0}])
async def test_narrowest_filter_leaves_the_best_token(
    text_engine: TextEngine, reference: Reference, settings: dict[str, Any]
) -> None:
    assert await text(text_engine, sampled("Grant of", **settings)) == await reference.greedy("Grant of", 24)


async def test_logit_bias_forces_and_forbids_tokens(text_engine: TextEngine) -> None:
    tilde, hat = text_engine._loaded().tokenizer.encode("~^", add_special_tokens=False)

    forced = await text(text_engine, greedy("Work", 3, logit_bias={tilde: 100.0, hat: 50.0}))
    forbidden = await text(text_engine, greedy("Work", 3, logit_bias={tilde: -100.0, hat: 50.0}))

    assert (forced, forbidden) == ("~~~", "^^^")


async def test_presence_and_frequency_count_what_was_written_and_not_the_prompt(
    text_engine: TextEngine,
) -> None:
    def penalised() -> object:
        (process,) = logits_processors(Penalties(presence=0.5, frequency=0.25), prompt_length=2)
        return process(mx.array([3, 3, 4, 4, 5]), mx.zeros((1, 6))).tolist()

    logits = await text_engine._thread.call(penalised)

    assert logits == [[0, 0, 0, 0, -1.0, -0.75]]


async def test_end_of_turn_token_is_counted_but_not_shown(text_engine: TextEngine) -> None:
    shown, last = await answer(text_engine, greedy((5, 6, 7), logit_bias={1: 100.0}))

    assert shown == ""
    assert last.finish_reason == "stop"
    assert last.usage == Usage(prompt_tokens=3, completion_tokens=1)


async def test_max_tokens_ends_with_length(text_engine: TextEngine) -> None:
    _, last = await answer(text_engine, greedy((5, 6, 7), 9))

    assert last.finish_reason == "length"
    assert last.usage == Usage(prompt_tokens=3, completion_tokens=9)


async def test_stop_string_across_tokens_ends_the_text_before_it(text_engine: TextEngine) -> None:
    chunks = [chunk.text async for chunk in text_engine.generate(text_engine.prepare(greedy("Work", 24)))]
    whole = "".join(chunks)
    border = len("".join(chunks[:6]))
    stop = whole[border - 1 : border + 1]

    shown, last = await answer(text_engine, greedy("Work", 24, stop=("absent", stop)))

    assert shown == whole[: whole.index(stop)]
    assert last.finish_reason == "stop"
    assert last.stop_sequence == stop
    assert last.usage is not None
    assert last.usage.completion_tokens <= 7 + 1


async def test_characters_of_several_bytes_arrive_whole(text_engine: TextEngine) -> None:
    tokenizer = text_engine._loaded().tokenizer
    first, second = tokenizer.encode("ü", add_special_tokens=False)
    speech = _Speech(tokenizer.detokenizer, Splitter(Dialect(tokenizer), ()), text_engine.prepare(greedy("Work", 6)))

    said = [speech.say([token], None).text for token in (first, second, first, second)]

    assert said == ["", "ü", "", "ü"]


async def test_closing_a_generation_frees_its_row_within_a_step(text_engine: TextEngine) -> None:
    batch = text_engine._loaded().batch
    async with aclosing(text_engine.generate(text_engine.prepare(greedy("Work", 200)))) as chunks:
        await anext(chunks)
        assert len(batch._rows) == 1

    await text_engine.ping()

    assert batch._rows == {}
    assert batch._generator is not None
    assert batch._generator.prompt_cache_nbytes == 0


async def test_place_of_a_cancelled_row_is_used_again(own_engine: TextEngine, reference: Reference) -> None:
    first, second = (own_engine.generate(own_engine.prepare(greedy("Work", 200))) for _ in range(2))
    await anext(first)
    await anext(second)
    waiting = asyncio.create_task(text(own_engine, greedy("You may")))
    await own_engine.ping()

    await first.aclose()

    assert await waiting == await reference.greedy("You may", 24)
    await second.aclose()


async def test_cancelled_task_frees_its_row(text_engine: TextEngine) -> None:
    batch = text_engine._loaded().batch
    task = asyncio.create_task(text(text_engine, greedy("Work", 200)))
    while not batch._rows:
        await text_engine.ping()

    task.cancel()
    await asyncio.wait([task])
    await text_engine.ping()

    assert task.cancelled()
    assert batch._rows == {}


async def test_rows_learn_that_the_thread_has_crashed(own_engine: TextEngine) -> None:
    running = own_engine.generate(own_engine.prepare(greedy("Work", 200)))
    await anext(running)

    own_engine._thread.submit(lambda: 1 / 0)

    for use in (drain(running), text(own_engine, greedy("Work")), own_engine.ping()):
        with pytest.raises(LostError) as lost:
            await use
        assert lost.value.code == "crashed"


async def test_unloading_frees_the_memory_and_refuses_unfinished_rows(tiny_llama: Path) -> None:
    engine = TextEngine(tiny_llama, TextLimits())
    gc.collect()  # What is left of other tests.
    before = mx.get_active_memory()
    await engine.load()
    chunks = engine.generate(engine.prepare(greedy("Work", 200)))
    await anext(chunks)
    assert mx.get_active_memory() - before > 400_000

    await engine.unload()

    assert mx.get_active_memory() - before < 1000
    with pytest.raises(RefusedError) as refused:
        await drain(chunks)
    assert refused.value.code == "restarting"
    with pytest.raises(LostError):
        await engine.ping()


async def test_facts_are_those_of_the_folder(tiny_llama: Path) -> None:
    engine = TextEngine(tiny_llama, TextLimits(context_length=100))
    facts = await engine.load()
    await engine.unload()

    assert facts.family == "llama"
    assert facts.context_length == 100
    assert facts.dtype == "float32"
    assert 0 < (tiny_llama / "model.safetensors").stat().st_size - facts.size_bytes < 3000


async def test_process_ends_cleanly(tiny_llama: Path) -> None:
    script = """
import asyncio, pathlib, sys
from actors.engines.blas import prepare_blas
prepare_blas()
from actors.engines.text import TextEngine, _Speech
from actors.engines.text_model import TextLimits
from bus.messages.chat import ChatRequest

async def main():
    engine = TextEngine(pathlib.Path(sys.argv[1]), TextLimits())
    await engine.load()
    work = engine.prepare(ChatRequest(prompt="Work", max_tokens=3))
    print(len([chunk async for chunk in engine.generate(work)]))
    await engine.unload()

asyncio.run(main())
"""
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(tiny_llama)], capture_output=True, check=False
    )

    assert process.returncode == 0, process.stderr.decode()
