import asyncio
from typing import Any

import mlx.core as mx
import msgspec
import pytest

from actors.engines.text import TextEngine, _Speech
from actors.engines.text_dialect import Dialect
from actors.engines.text_sampling import Penalties, logits_processors
from actors.engines.text_split import Splitter
from bus.messages.chat import ChatRequest, Usage
from tests.support.text import Reference, answer, greedy, text

pytestmark = pytest.mark.asyncio(loop_scope="session")


def sampled(prompt: str, max_tokens: int = 24, **settings: Any) -> ChatRequest:
    return ChatRequest(prompt=prompt, max_tokens=max_tokens, temperature=1.5, **settings)


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
    whole, _ = await answer(text_engine, greedy("Work", 24))
    border = len((await answer(text_engine, greedy("Work", 6)))[0])
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
