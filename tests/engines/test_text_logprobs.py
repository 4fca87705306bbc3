import asyncio
import math
from pathlib import Path
from typing import Any

import mlx_lm
import pytest
from msgspec import Raw, json, structs

from actors.engines.text import TextEngine
from actors.engines.thread import EngineThread
from bus.messages.chat import ChatChunk, ChatRequest, Choice, JsonSchema, Message, Regex, TokenLogprob, Tool

pytestmark = pytest.mark.asyncio(loop_scope="session")

# The tokens of single bytes outside ASCII, of which the tiny model makes broken characters.
NO_BYTES = dict.fromkeys(range(96, 258), -100.0)


def greedy(**settings: Any) -> ChatRequest:
    return ChatRequest(**({"prompt": "The License", "max_tokens": 24, "temperature": 0} | settings))


async def chunks_of(engine: TextEngine, request: ChatRequest) -> list[ChatChunk]:
    return [chunk async for chunk in engine.generate(engine.prepare(request))]


async def told(engine: TextEngine, request: ChatRequest) -> tuple[str, list[TokenLogprob]]:
    chunks = await chunks_of(engine, request)
    return "".join(chunk.text for chunk in chunks), [each for chunk in chunks for each in chunk.logprobs]


def joined(tokens: list[TokenLogprob]) -> str:
    return b"".join(each.token for each in tokens).decode(errors="replace")


def of_mlx_lm(path: Path) -> list[float]:
    model, tokenizer = mlx_lm.load(str(path))
    steps = mlx_lm.stream_generate(model, tokenizer, "The License", max_tokens=24)
    return [step.logprobs[step.token].item() for step in steps]


async def test_logprobs_are_those_of_mlx_lm(text_engine: TextEngine, tiny_llama: Path) -> None:
    thread = EngineThread("reference")
    thread.start()
    expected = await thread.call(of_mlx_lm, tiny_llama)
    await thread.close()

    text, tokens = await told(text_engine, greedy(top_logprobs=3))

    assert [each.logprob for each in tokens] == pytest.approx(expected, abs=1e-4)
    assert joined(tokens) == text
    for each in tokens:
        assert (each.top[0].token, each.top[0].logprob) == (each.token, each.logprob)
        assert [top.logprob for top in each.top] == sorted((top.logprob for top in each.top), reverse=True)
        assert [len(each.top), len({top.token for top in each.top})] == [3, 3]


async def test_offsets_lead_to_the_tokens_in_the_text(text_engine: TextEngine) -> None:
    text, tokens = await told(text_engine, greedy(top_logprobs=0, logit_bias=NO_BYTES, temperature=1, seed=3))

    assert [text[each.offset :].startswith(joined([each])) for each in tokens] == [True] * 24


async def test_all_alternatives_asked_for_add_up_to_less_than_one(text_engine: TextEngine) -> None:
    _, tokens = await told(text_engine, greedy(top_logprobs=20, temperature=1, seed=1))

    assert all(len(each.top) == 20 and sum(math.exp(top.logprob) for top in each.top) < 1 for each in tokens)


async def test_tokens_are_told_without_alternatives(text_engine: TextEngine) -> None:
    text, tokens = await told(text_engine, greedy(top_logprobs=0))

    assert joined(tokens) == text
    assert {each.top for each in tokens} == {()}


async def test_tokens_of_a_character_come_with_it(text_engine: TextEngine) -> None:
    request = greedy(grammar=Choice(options=("é😀ß",)), top_logprobs=0)

    chunks = await chunks_of(text_engine, request)

    tokens = [each for chunk in chunks for each in chunk.logprobs]
    assert joined(tokens) == "é😀ß"
    assert len(tokens) > 3
    assert all(joined(list(chunk.logprobs)) == chunk.text for chunk in chunks)


async def test_forbidden_tokens_are_no_alternatives(text_engine: TextEngine) -> None:
    schema = JsonSchema(schema=Raw(json.encode({"const": True})))

    _, tokens = await told(text_engine, greedy(grammar=schema, top_logprobs=5))

    assert joined(tokens) == "true"
    assert all(b"true".find(top.token) >= 0 for each in tokens for top in each.top)


async def test_tokens_of_a_stop_string_are_not_told(text_engine: TextEngine) -> None:
    whole, _ = await told(text_engine, greedy())
    stop = whole[8:14]

    text, tokens = await told(text_engine, greedy(stop=(stop,), top_logprobs=1))

    assert text == whole[: whole.find(stop)]
    assert joined(tokens).startswith(text)
    assert all(each.offset < len(text) for each in tokens)


async def test_only_rows_that_asked_get_logprobs(text_engine: TextEngine) -> None:
    requests = [greedy(top_logprobs=2), greedy(), greedy(max_tokens=5, top_logprobs=0)]

    said = await asyncio.gather(*(told(text_engine, each) for each in requests))

    assert [bool(tokens) for _, tokens in said] == [True, False, True]
    assert said[0][0] == said[1][0]
    assert [each.token for each in said[2][1]] == [each.token for each in said[0][1][:5]]


@pytest.mark.parametrize("settings", [{}, {"grammar": Regex(pattern="[a-z]{4,9}")}, {"stop": ("e",)}])
async def test_only_tokens_of_the_content_are_told(thinking_engine: TextEngine, settings: dict[str, Any]) -> None:
    # Token 3 ends the thought.
    bias = dict.fromkeys(range(100, 262), -100.0) | {3: 3.0}
    hello = Message(role="user", content="Hello")
    request = ChatRequest(messages=(hello,), seed=2, max_tokens=120, top_logprobs=1, logit_bias=bias, **settings)

    chunks = await chunks_of(thinking_engine, request)

    text = "".join(chunk.text for chunk in chunks)
    tokens = [each for chunk in chunks for each in chunk.logprobs]
    assert any(chunk.reasoning for chunk in chunks)
    assert joined(tokens).startswith(text)
    assert [text[each.offset :].startswith(joined([each])) for each in tokens[:-1]] == [True] * (len(tokens) - 1)


async def test_tokens_of_calls_are_not_told(thinking_engine: TextEngine) -> None:
    hello = Message(role="user", content="Hello")
    request = ChatRequest(messages=(hello,), tools=(Tool(name="f"),), tool_choice="required", top_logprobs=1)

    chunks = await chunks_of(
        thinking_engine, structs.replace(request, enable_thinking=False, parallel_tool_calls=False, max_tokens=80)
    )

    assert [call.name for chunk in chunks for call in chunk.tool_calls] == ["f"]
    assert [each for chunk in chunks for each in chunk.logprobs] == []
