"""Quantised keys and values: near to what they were, and the same for a text alone, among others or known."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import gemma2, gemma3_text
from mlx_lm.models.cache import KVCache, make_prompt_cache
from msgspec import structs

from actors.engines.text import TextEngine
from actors.engines.text_batch import TextBatch
from actors.engines.text_model import TextLimits, load_model
from actors.engines.text_prompt import TextWork
from actors.engines.text_quantised_kv import quantise_kv
from actors.engines.text_sampling import Sampling
from actors.engines.thread import EngineThread
from bus.errors import BusError, RefusedError
from bus.messages.chat import ChatChunk, ChatRequest
from tests.support import tiny_models

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = tuple(range(2, 130))
# In 2 layers, keys and values of 2 heads of 32 numbers: 4 bytes each, or in bits with a scale and a bias of 4 bytes.
PLAIN_TOKEN = 2 * 2 * 2 * 32 * 4
TOKEN = {bits: 2 * 2 * 2 * (32 * bits // 8 + 8) for bits in (8, 4)}
BITS = pytest.mark.parametrize("bits", [8, 4])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose heads are as wide as a group of quantised numbers."""
    return tiny_models.llama(tmp_path_factory.mktemp("models") / "wide-llama", head_dim=32)


@asynccontextmanager
async def loaded(model: Path, **limits: Any) -> AsyncGenerator[TextEngine]:
    engine = TextEngine(model, TextLimits(warmup=False, prefill_step=16, **limits))
    await engine.load()
    try:
        yield engine
    finally:
        await engine.unload()


def greedy(prompt: tuple[int, ...], max_tokens: int = 24) -> ChatRequest:
    return ChatRequest(prompt=prompt, max_tokens=max_tokens, temperature=0, logit_bias={1: -100.0})


async def answer(engine: TextEngine, request: ChatRequest) -> tuple[str, int]:
    """Return the text, and how much of the prompt was known."""
    chunks = [chunk async for chunk in engine.generate(engine.prepare(request)) if isinstance(chunk, ChatChunk)]
    assert chunks[-1].usage is not None
    return "".join(chunk.text for chunk in chunks), chunks[-1].usage.cached_tokens


def batch(engine: TextEngine) -> TextBatch:
    assert engine._parts is not None
    return engine._parts.batch


async def test_logits_are_nearly_those_of_keys_and_values_that_are_not_quantised(llama: Path) -> None:
    def errors() -> list[float]:
        """Return for 8 and for 4 bits the root mean square of what the logits are off, in their own spread."""
        model = load_model(llama, TextLimits()).model
        prompt = mx.array([LONG])
        exact = np.array(model(prompt, cache=[KVCache() for _ in make_prompt_cache(model)]))
        found = []
        for bits in (8, 4):
            quantised = load_model(llama, TextLimits(kv_bits=bits)).model
            logits = np.array(quantised(prompt, cache=make_prompt_cache(quantised)))
            found.append(float(np.sqrt(np.mean((logits - exact) ** 2)) / np.std(exact)))
        return found

    thread = EngineThread("logits")
    thread.start()
    eight, four = await thread.call(errors)
    await thread.close()

    # Rounding to one of 256 steps between the smallest and the largest of a group, about 4 standard deviations apart,
    # is off by 4 / 255 / sqrt(12) = 0.5 % of one; keys and values of two layers make that 1 %. 4 bits: 17 times it.
    assert 0 < eight < 0.01
    assert 5 * eight < four < 0.17


@BITS
async def test_texts_of_mixed_lengths_are_the_same_together_as_alone(llama: Path, bits: int) -> None:
    requests = [greedy((*LONG[: 9 * number], 200 + number), 5 + 2 * number) for number in range(14)]
    async with loaded(llama, kv_bits=bits, prefix_bytes=0) as engine:
        alone = [await answer(engine, request) for request in requests]

        together = await asyncio.gather(*(answer(engine, request) for request in requests))

    assert together == alone
    assert len(set(alone)) == len(alone)


@BITS
async def test_text_is_the_same_when_its_beginning_is_known(llama: Path, bits: int) -> None:
    prompts = (LONG, LONG[:60], (*LONG, 300, 301), (*LONG[:70], 300, *LONG[71:]))
    async with loaded(llama, kv_bits=bits, prefix_bytes=0) as forgetful:
        expected = [(await answer(forgetful, greedy(prompt)))[0] for prompt in prompts]
    async with loaded(llama, kv_bits=bits) as engine:
        await answer(engine, greedy(LONG, 3))

        found = await asyncio.gather(*(answer(engine, greedy(prompt)) for prompt in prompts))

    assert found == list(zip(expected, (127, 59, 128, 70), strict=True))


@BITS
async def test_token_takes_its_bits_with_scales_and_biases(llama: Path, bits: int) -> None:
    async with loaded(llama) as plain, loaded(llama, kv_bits=bits) as engine:
        async with aclosing(engine.generate(engine.prepare(greedy(LONG, 100)))) as running:
            async for chunk in running:
                if isinstance(chunk, ChatChunk):
                    break
            generator = batch(engine)._generator
            assert generator is not None
            assert generator.prompt_cache_nbytes == 256 * TOKEN[bits]
        await engine.ping()

        assert batch(plain)._kv_cost.of(3, 200) == 3 * 256 * PLAIN_TOKEN
        assert batch(engine)._kv_cost.of(3, 200) == 3 * 256 * TOKEN[bits]
        (entry,) = batch(engine)._prefixes.entries
        assert entry.nbytes == len(entry.tokens) * (TOKEN[bits] + 4)


async def test_memory_of_one_text_is_enough_for_as_many_as_the_bits_say(llama: Path) -> None:
    async def most(**limits: Any) -> int:
        """Return how many of eight texts are written at once."""
        found = 0

        async def one(number: int) -> None:
            nonlocal found
            async for _ in engine.generate(engine.prepare(greedy((2, 3, number)))):
                found = max(found, len(batch(engine)._rows))

        async with loaded(llama, kv_bytes=256 * PLAIN_TOKEN, **limits) as engine:
            await asyncio.gather(*(one(number) for number in range(8)))
        return found

    assert [await most(), await most(kv_bits=8), await most(kv_bits=4)] == [1, 3, 5]


async def test_longest_text_ends_when_two_outgrow_the_memory_together(llama: Path, tmp_path: Path) -> None:
    async def written(work: TextWork) -> int:
        """Return how many tokens came."""
        chunks = [chunk async for chunk in engine.generate(work) if isinstance(chunk, ChatChunk)]
        assert chunks[-1].usage is not None
        return chunks[-1].usage.completion_tokens

    roomy = tiny_models.changed(llama, tmp_path / "roomy", config={"max_position_embeddings": 512})
    async with loaded(roomy, kv_bits=4, kv_bytes=2 * 256 * TOKEN[4]) as engine:
        works = [
            structs.replace(engine.prepare(greedy(prompt, 240)), reserved=len(prompt)) for prompt in (LONG, LONG[:60])
        ]
        longer, shorter = await asyncio.gather(*(written(work) for work in works))

    # 256 tokens for each: the longer ends soon after, and leaves its place to the other.
    assert 128 <= longer < 240
    assert shorter == 240


async def test_what_was_read_is_known_after_the_model_was_unloaded_unless_the_bits_are_others(
    llama: Path, tmp_path: Path
) -> None:
    async with loaded(llama, kv_bits=8, prefix_folder=tmp_path) as engine:
        text, _ = await answer(engine, greedy(LONG))

    async with loaded(llama, kv_bits=8, prefix_folder=tmp_path) as engine:
        again = await answer(engine, greedy(LONG))
        shorter = await answer(engine, greedy(LONG[:60], 1))
    known = []
    for limits in ({"kv_bits": 4}, {}):
        async with loaded(llama, prefix_folder=tmp_path, **limits) as engine:
            known.append((await answer(engine, greedy(LONG)))[1])

    assert again == (text, 127)
    assert shorter[1] == 59
    assert known == [0, 0]


async def test_text_is_the_same_with_a_draft_model(llama: Path, tmp_path: Path) -> None:
    other = tiny_models.llama(tmp_path / "other", seed=8, head_dim=32)
    request = structs.replace(greedy(LONG, 60), logit_bias={})
    async with loaded(llama, kv_bits=8) as engine:
        expected = await answer(engine, request)

    for draft in (llama, other):
        async with loaded(llama, kv_bits=8, draft=draft) as engine:
            assert await answer(engine, request) == expected


async def test_texts_beside_one_that_fails_go_on_as_before(llama: Path) -> None:
    requests = [greedy(LONG[: 20 * number], 40) for number in range(1, 5)]
    async with loaded(llama, kv_bits=4) as engine:
        alone = [(await answer(engine, request))[0] for request in requests]
        beside = [asyncio.create_task(answer(engine, request)) for request in requests]
        broken = structs.replace(engine.prepare(greedy(LONG)), sampling=Sampling(top_k=10**6))
        with pytest.raises(BusError):
            await anext(engine.generate(broken))

        assert [text for text, _ in await asyncio.gather(*beside)] == alone


SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6, "vocab_size": 512}


@pytest.mark.parametrize(
    ("family", "reason"),
    [(gemma3_text, "not all of its layers keep"), (gemma2, "its attention cannot work with")],
    ids=["sliding windows", "attention of its own"],
)
async def test_model_that_cannot_work_with_them_is_refused(family: Any, reason: str) -> None:
    model = family.Model(family.ModelArgs("gemma", **SIZES))

    with pytest.raises(RefusedError, match=reason):
        quantise_kv(model, 8)


async def test_refusal_ends_loading_and_names_the_setting(tiny_llama: Path) -> None:
    with pytest.raises(RefusedError, match="the size of its heads, 16, is no multiple of 32") as refused:
        async with loaded(tiny_llama, kv_bits=4):
            pass

    assert refused.value.failure.param == "kv_bits"
    assert "`kv_bits`" in str(refused.value)
