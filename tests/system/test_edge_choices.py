"""Several answers to one request."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, RateLimitError

from actors.engines.echo import EchoEngine
from actors.mailbox import Limits
from bus.messages.chat import ChatChunk
from tests.support.stack import CHAT_MODEL, GatedEngine, Stack, chat_actor, stack

CHAT: Any = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 12}
TEXT: Any = {"model": CHAT_MODEL, "prompt": "The License", "max_tokens": 12}


async def test_each_answer_has_its_own_seed_and_the_prompt_counts_once(tiny_edge: Stack) -> None:
    ask = tiny_edge.openai.chat.completions.create
    single = [await ask(**CHAT, seed=seed) for seed in (5, 6, 7)]
    answer = await ask(**CHAT, seed=5, n=3)

    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert texts == [each.choices[0].message.content for each in single]
    assert len(set(texts)) == 3
    assert answer.usage is not None
    assert single[0].usage is not None
    assert answer.usage.prompt_tokens == single[0].usage.prompt_tokens
    assert answer.usage.completion_tokens == 36
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 36


async def test_streamed_answers_are_told_apart_by_their_index(tiny_edge: Stack) -> None:
    whole = await tiny_edge.openai.chat.completions.create(**CHAT, seed=5, n=3)
    stream = await tiny_edge.openai.chat.completions.create(
        **CHAT, seed=5, n=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    texts: dict[int, str] = defaultdict(str)
    reasons: dict[int, list[str]] = defaultdict(list)
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] += [choice.finish_reason] if choice.finish_reason else []
    assert dict(texts) == {choice.index: choice.message.content for choice in whole.choices}
    assert dict(reasons) == {index: ["length"] for index in range(3)}
    assert chunks[-1].choices == []
    usage = chunks[-1].usage
    assert usage is not None
    assert whole.usage is not None
    # The second request may know the prompt from the first.
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)


class BackwardsEngine(EchoEngine):
    """Answers the first that asks only after the second has been answered."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.has_answered = asyncio.Event()

    async def generate(self, work: Any) -> AsyncGenerator[ChatChunk]:
        self.asked += 1
        if self.asked == 1:
            await self.has_answered.wait()
        async for chunk in super().generate(work):
            yield chunk
        self.has_answered.set()


async def test_stream_helper_takes_answers_in_whatever_order_the_model_gives_them(
    nats_url: str, tmp_path: Path
) -> None:
    async with (
        stack(nats_url, tmp_path) as edge,
        chat_actor(edge.bus, BackwardsEngine()),
        edge.openai.chat.completions.stream(**CHAT, n=2) as stream,
    ):
        answer = await stream.get_final_completion()

    assert [choice.message.content for choice in answer.choices] == ["Who?", "Who?"]


async def test_completions_come_prompt_by_prompt(tiny_edge: Stack) -> None:
    ask = tiny_edge.openai.completions.create
    single = [await ask(**TEXT | {"prompt": prompt, "seed": seed}) for prompt in ("You", "Work") for seed in (1, 2)]
    answer = await ask(**TEXT | {"prompt": ["You", "Work"], "seed": 1, "n": 2})
    stream = await ask(
        **TEXT | {"prompt": ["You", "Work"], "seed": 1, "n": 2, "stream": True},
        stream_options={"include_usage": True},
    )
    *chunks, last = [chunk async for chunk in stream]

    texts = [each.choices[0].text for each in single]
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    pieces = [chunk.choices[0] for chunk in chunks]
    assert ["".join(each.text for each in pieces if each.index == index) for index in range(4)] == texts
    for usage in (answer.usage, last.usage):
        assert usage is not None
        assert usage.prompt_tokens == sum(each.usage.prompt_tokens for each in single[::2] if each.usage)
        assert usage.completion_tokens == 48


async def test_answer_that_is_refused_ends_all(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge:
        async with chat_actor(edge.bus, GatedEngine(), Limits(concurrency=1, max_queue=1)) as mailbox:
            with pytest.raises(RateLimitError):
                await edge.openai.chat.completions.create(**CHAT, n=4)
            with pytest.raises(APIError):
                async for _ in await edge.openai.chat.completions.create(**CHAT, n=4, stream=True):
                    pass

            assert mailbox.load.refused >= 2
