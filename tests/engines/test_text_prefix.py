import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import pytest_asyncio
from mlx.utils import tree_flatten, tree_map
from mlx_lm.generate import BatchGenerator
from mlx_lm.models import gemma3_text
from mlx_lm.models.cache import KVCache, RotatingKVCache

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from actors.engines.text_prefix import PrefixCache
from bus.messages.chat import ChatRequest, Message
from tests.support import tiny_models
from tests.support.caches import filled

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG = tuple(range(2, 130))


@pytest_asyncio.fixture(loop_scope="session")
async def engine(tiny_llama: Path) -> AsyncGenerator[TextEngine]:
    engine = TextEngine(tiny_llama, TextLimits(prefill_step=32, warmup=False))
    await engine.load()
    yield engine
    await engine.unload()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def forgetful(tiny_llama: Path) -> AsyncGenerator[TextEngine]:
    engine = TextEngine(tiny_llama, TextLimits(prefix_bytes=0, warmup=False))
    await engine.load()
    yield engine
    await engine.unload()


def greedy(prompt: tuple[int, ...], max_tokens: int = 24, **settings: Any) -> ChatRequest:
    return ChatRequest(prompt=prompt, max_tokens=max_tokens, temperature=0, **settings)


async def answer(engine: TextEngine, request: ChatRequest) -> tuple[str, int]:
    """Return the text, and how much of the prompt was known."""
    chunks = [chunk async for chunk in engine.generate(engine.prepare(request))]
    usage = chunks[-1].usage
    assert usage is not None
    return "".join(chunk.text for chunk in chunks), usage.cached_tokens


@pytest.mark.parametrize(
    ("earlier", "later", "known"),
    [
        (LONG, LONG, 127),
        (LONG, LONG[:60], 59),
        (LONG, (*LONG, 300, 301), 128),
        (LONG, (*LONG[:70], 300, *LONG[71:]), 70),
        (LONG, (300, *LONG), 0),
        (LONG, (*LONG[:7], 300), 0),
        ((5,), (5,), 0),
    ],
    ids=["same", "beginning", "longer", "other in the middle", "other from the start", "too little", "one token"],
)
async def test_text_is_the_same_when_its_beginning_is_known(
    engine: TextEngine, forgetful: TextEngine, earlier: tuple[int, ...], later: tuple[int, ...], known: int
) -> None:
    await answer(engine, greedy(earlier, 3))

    text, cached = await answer(engine, greedy(later))

    assert cached == known
    assert (text, 0) == await answer(forgetful, greedy(later))


async def test_text_is_the_same_among_others_that_know_more_or_less(engine: TextEngine, forgetful: TextEngine) -> None:
    prompts = [(*LONG[: 9 * number], 200 + number, *LONG[:number]) for number in range(14)]
    expected = [(await answer(forgetful, greedy(prompt, 5 + number)))[0] for number, prompt in enumerate(prompts)]
    await answer(engine, greedy(LONG, 2))

    for _ in range(2):
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(answer(engine, greedy(prompt, 5 + number))) for number, prompt in enumerate(prompts)
            ]
        assert [task.result()[0] for task in tasks] == expected

    assert [task.result()[1] for task in tasks[2:]] == [len(prompt) - 1 for prompt in prompts[2:]]


async def test_penalties_count_the_same_when_the_prompt_is_known(engine: TextEngine, forgetful: TextEngine) -> None:
    request = greedy(LONG, 24, frequency_penalty=1.5, repetition_penalty=1.3)
    await answer(engine, greedy(LONG, 3))

    text, cached = await answer(engine, request)

    assert cached == 127
    assert text == (await answer(forgetful, request))[0]


async def test_next_turn_of_a_conversation_reads_only_what_is_new(engine: TextEngine, forgetful: TextEngine) -> None:
    turns: list[Message] = []
    known = []
    for said in ("You may copy the License.", "Who may?", "And who may not?"):
        turns.append(Message(role="user", content=said))
        request = ChatRequest(messages=tuple(turns), max_tokens=12, temperature=0)
        text, cached = await answer(engine, request)
        known.append(cached)
        assert text == (await answer(forgetful, request))[0]
        turns.append(Message(role="assistant", content=text))

    assert known[0] == 0 < known[1] < known[2]


async def test_prompt_is_known_while_the_first_who_asked_is_still_answered(engine: TextEngine) -> None:
    async with aclosing(engine.generate(engine.prepare(greedy(LONG, 100)))) as running:
        await anext(running)

        _, cached = await answer(engine, greedy(LONG, 2))

    assert cached == 127


async def test_row_whose_asker_leaves_is_known_afterwards(engine: TextEngine) -> None:
    short = LONG[:40]
    async with aclosing(engine.generate(engine.prepare(greedy(short, 100)))) as running:
        await anext(running)

    assert (await answer(engine, greedy(short, 1)))[1] == 39


async def test_row_that_ends_at_a_stop_string_is_known_afterwards(engine: TextEngine, forgetful: TextEngine) -> None:
    short = LONG[:40]
    text, _ = await answer(forgetful, greedy(short, 30))
    await answer(engine, greedy(short, 30, stop=(text[3],)))

    assert (await answer(engine, greedy(short, 1)))[1] == 39


async def test_nothing_is_kept_with_a_size_of_0(forgetful: TextEngine) -> None:
    for _ in range(2):
        assert (await answer(forgetful, greedy(LONG)))[1] == 0


def tokens(length: int, first: int = 0) -> list[int]:
    return [first, *range(1, length)]


def size(length: int) -> int:
    kept = PrefixCache(2**30)
    kept.put(tokens(length), filled(length))
    return kept.nbytes


async def test_least_used_entry_is_forgotten_first() -> None:
    kept = PrefixCache(3 * size(100))
    for first in (0, 1, 2):
        kept.put(tokens(100, first), filled(100))
    kept.find(tokens(100, 0))

    kept.put(tokens(100, 3), filled(100))

    assert [kept.find(tokens(100, first)) is not None for first in range(4)] == [True, False, True, True]
    assert kept.nbytes == 3 * size(100)


async def test_entry_replaces_its_own_beginning_and_is_not_replaced_by_it() -> None:
    kept = PrefixCache(2**30)
    kept.put(tokens(50), filled(50))
    kept.put(tokens(100), filled(100))
    kept.put(tokens(60), filled(60))

    assert kept.nbytes == size(100)


async def test_entry_larger_than_everything_is_not_kept() -> None:
    kept = PrefixCache(size(100) - 1)
    kept.put(tokens(50), filled(50))
    kept.put(tokens(100, 9), filled(100))

    assert kept.nbytes == size(50)


async def test_sliding_window_is_taken_whole_or_not_at_all() -> None:
    kept = PrefixCache(2**30)
    kept.put(tokens(12), filled(12, RotatingKVCache))

    assert kept.find(tokens(12)) is None
    assert kept.find(tokens(11)) is None
    assert kept.find([*tokens(11), 300, 301]) is None
    found = kept.find([*tokens(12), 300])
    assert found is not None
    assert found.length == 12


async def test_what_is_found_may_be_written_to() -> None:
    kept = PrefixCache(2**30)
    for kind in (KVCache, RotatingKVCache):
        kept.put(tokens(20), filled(20, kind))
        for _ in range(2):
            found = kept.find([*tokens(20), 300])
            assert found is not None
            for cache in found.caches:
                assert cache.offset == 20
                cache.update_and_fetch(mx.zeros((1, 1, 1, 4)), mx.zeros((1, 1, 1, 4)))
        kept.trim_to(0)


GEMMA = gemma3_text.ModelArgs(
    model_type="gemma3_text", hidden_size=64, num_hidden_layers=4, intermediate_size=128,
    num_attention_heads=4, head_dim=16, rms_norm_eps=1e-6, vocab_size=512, num_key_value_heads=2,
    sliding_window=24, sliding_window_pattern=2,
)  # fmt: skip


def random_gemma() -> gemma3_text.Model:
    """A model of which every other layer sees only the last 24 tokens."""
    mx.random.seed(3)
    model = gemma3_text.Model(GEMMA)
    # Larger weights, or all texts are alike.
    model.update(tree_map(lambda weight: 3 * weight if weight.ndim > 1 else weight, model.parameters()))
    mx.eval(model.parameters())
    return model


def generated(model: gemma3_text.Model, prompts: list[list[int]], kept: PrefixCache) -> tuple[list[list[int]], int]:
    """Return 12 tokens for each prompt, and how many tokens of all prompts were known."""
    generator = BatchGenerator(model, stop_tokens=[], prefill_step_size=16)
    known = 0
    texts: dict[int, list[int]] = {}
    for prompt in prompts:
        found = kept.find(prompt)
        length = found.length if found else 0
        (uid,) = generator.insert([prompt[length:]], [12], [found.caches] if found else None, [prompt[:length]])
        known += length
        texts[uid] = []
    while any(len(text) < 12 for text in texts.values()):
        for response in generator.next()[1]:
            texts[response.uid].append(response.token)
            if response.finish_reason:
                kept.put(response.all_tokens, response.prompt_cache)
    generator.close()
    return list(texts.values()), known


async def test_model_with_a_sliding_window_goes_on_where_a_text_ended() -> None:
    model, kept, nothing = random_gemma(), PrefixCache(2**30), PrefixCache(0)
    prompts = [list(range(first, first + length)) for first, length in ((2, 9), (100, 30), (200, 70), (300, 23))]
    texts, _ = generated(model, prompts, kept)
    later = [[*prompt, *text, 400, 401] for prompt, text in zip(prompts, texts, strict=True)]
    others = [prompt[:-1] for prompt in prompts]

    told, known = generated(model, later + others, kept)

    assert known == sum(len(prompt) - 2 for prompt in later)
    assert told == [generated(model, [prompt], nothing)[0][0] for prompt in later + others]


async def test_what_two_prompts_have_in_common_is_known_to_the_third(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tiny_models.changed(
        tiny_llama, tmp_path / "gemma", config=dataclasses.asdict(GEMMA) | {"max_position_embeddings": 256}
    )
    weights = dict(tree_flatten(random_gemma().parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    engine, forgetful = (
        TextEngine(folder, TextLimits(prefill_step=32, prefix_bytes=size, warmup=False)) for size in (None, 0)
    )
    await engine.load()
    await forgetful.load()
    system = LONG[:100]
    prompts = [(*system, *range(first, first + 5 + number)) for number, first in enumerate((200, 250, 300, 350))]

    alone = await answer(engine, greedy(prompts[0]))
    parting = await asyncio.gather(answer(engine, greedy(prompts[1])), answer(engine, greedy(LONG[50:])))
    later = await asyncio.gather(*(answer(engine, greedy(prompt)) for prompt in prompts[2:]))
    expected = [(await answer(forgetful, greedy(prompt)))[0] for prompt in (*prompts, LONG[50:])]
    await engine.unload()
    await forgetful.unload()

    assert [text for text, _ in (alone, parting[0], *later, parting[1])] == expected
    assert [known for _, known in (alone, *parting, *later)] == [0, 0, 0, 100, 100]
