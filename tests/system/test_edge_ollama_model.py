"""Ollama's API before models with weights: tools, formats and log probabilities, with the official client."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from ollama import AsyncClient, ResponseError

from actors.engines.blas import prepare_blas

# Before anything here imports mlx.
prepare_blas()

from actors.engines.text import TextEngine  # noqa: E402 - imports mlx
from actors.engines.text_model import TextLimits  # noqa: E402 - imports mlx
from tests.support.stack import CHAT_MODEL, chat_actor, stack  # noqa: E402 - stays with the others

TOY = Path(__file__).parents[2] / "models" / "fusion-toy"
QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
GREEDY = {"temperature": 0}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"sky": {"enum": ["blue", "red"]}},
    "required": ["sky"],
    "additionalProperties": False,
}


@pytest.fixture
async def client(nats_url: str, tmp_path: Path) -> AsyncGenerator[AsyncClient]:
    engine = TextEngine(TOY, TextLimits(warmup=False))
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine), AsyncClient(host=edge.url) as client:
        yield client
    await engine.unload()


async def test_toy_calls_a_tool_and_answers_with_what_it_says(client: AsyncClient) -> None:
    asked = await client.chat(CHAT_MODEL, QUESTION, tools=TOOLS, options=GREEDY)
    (call,) = asked.message.tool_calls or ()
    result = {"role": "tool", "tool_name": call.function.name, "content": '{"temperature": 21, "condition": "sunny"}'}
    answer = await client.chat(CHAT_MODEL, [*QUESTION, asked.message, result], tools=TOOLS, options=GREEDY)

    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Paris"})
    assert not asked.message.content
    assert answer.message.content == "It is sunny and 21 degrees in Paris."


async def test_answer_is_kept_to_the_format(client: AsyncClient) -> None:
    chatted = await client.chat(CHAT_MODEL, QUESTION, format=SCHEMA, options=GREEDY)
    generated = await client.generate(CHAT_MODEL, "The sky?", format="json", options={"seed": 1, "num_predict": 100})
    with pytest.raises(ResponseError) as raised:
        await client.chat(CHAT_MODEL, QUESTION, format={"not": {}})

    assert json.loads(chatted.message.content or "")["sky"] in {"blue", "red"}
    assert (generated.response or "").startswith("{")
    assert raised.value.status_code == 400
    assert "format" in raised.value.error


async def test_log_probabilities_come_with_each_piece(client: AsyncClient) -> None:
    options = {"temperature": 0, "num_predict": 4}
    whole = await client.generate(CHAT_MODEL, "NATS is", raw=True, options=options, logprobs=True, top_logprobs=2)
    stream = await client.generate(
        CHAT_MODEL, "NATS is", raw=True, options=options, logprobs=True, top_logprobs=2, stream=True
    )
    parts = [part async for part in stream]

    entries = whole.logprobs or ()
    assert "".join(each.token for each in entries) == whole.response
    assert [len(each.top_logprobs or ()) for each in entries] == [2] * 4
    assert [each for part in parts for each in part.logprobs or ()] == list(entries)


async def test_model_that_does_not_think_refuses_to(client: AsyncClient) -> None:
    with pytest.raises(ResponseError) as raised:
        await client.chat(CHAT_MODEL, QUESTION, think=True)
    answer = await client.chat(CHAT_MODEL, QUESTION, think=False, options=GREEDY)

    assert raised.value.status_code == 400
    assert "'think'" in raised.value.error
    assert answer.message.content
