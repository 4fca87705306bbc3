"""Ollama's API as its official client speaks it, and as bytes."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from ollama import AsyncClient, Client, ResponseError

from actors.engines.echo import EchoEmbeddings, EchoEngine
from bus.errors import RefusedError
from bus.messages.chat import ChatRequest, JsonObject, JsonSchema, Message, Tool, ToolCall
from tests.support.models_owner import catalogue
from tests.support.ollama_client import failing, user
from tests.support.stack import CHAT_MODEL, EMBED_MODEL, KeepingEngine, chat_actor, embeddings_actor, stack

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "Get the weather in a city.", "parameters": SCHEMA},
    }
]
CALLING = 'think: Hm.\ncall: get_weather {"city": "Paris"}\ncall: get_weather {"city": "Rome"}\nLook'


class SilentEngine(KeepingEngine):
    """Keeps what it was asked, and refuses it: for what an engine without a model cannot do."""

    def prepare(self, request: ChatRequest) -> Any:
        self.asked.append(request)
        raise RefusedError("unsupported_parameter", "max_tokens is not honoured.", param="max_tokens")


async def test_sync_client_reads_a_whole_answer_and_a_stream(nats_url: str, tmp_path: Path) -> None:
    def ask(url: str) -> tuple[Any, list[Any]]:
        with Client(host=url) as client:
            whole = client.chat(CHAT_MODEL, user("one two three"))
            return whole, list(client.chat(CHAT_MODEL, user("one two three"), stream=True))

    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        whole, parts = await asyncio.to_thread(ask, edge.url)

    assert (whole.message.role, whole.message.content) == ("assistant", "one two three")
    assert "".join(part.message.content for part in parts) == "one two three"
    assert [part.done for part in parts] == [False, False, False, True]
    for last in (whole, parts[-1]):
        assert (last.model, last.done_reason, last.load_duration) == (CHAT_MODEL, "stop", 0)
        assert (last.prompt_eval_count, last.eval_count) == (3, 3)
        assert 0 < last.prompt_eval_duration < last.total_duration
        assert last.prompt_eval_duration + last.eval_duration == last.total_duration


async def test_stream_is_lines_of_json_and_is_what_is_sent_unless_told_otherwise(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        body = {"model": CHAT_MODEL, "messages": user("one two"), "options": {"num_predict": 1}}
        async with edge.http.post("/api/chat", json=body) as response:
            lines = (await response.text()).split("\n")

    assert response.content_type == "application/x-ndjson"
    first, last = (json.loads(line) for line in lines[:-1])
    assert lines[-1] == ""
    assert set(first) == {"model", "created_at", "message", "done"}
    assert first["message"] == {"role": "assistant", "content": "one"}
    assert (last["message"], last["done_reason"]) == ({"role": "assistant", "content": ""}, "length")


async def test_calls_and_reasoning_come_whole_and_can_be_sent_back(nats_url: str, tmp_path: Path) -> None:
    engine = KeepingEngine()
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        async with AsyncClient(host=edge.url) as client:
            whole = await client.chat(CHAT_MODEL, user(CALLING), tools=TOOLS)
            parts = [part async for part in await client.chat(CHAT_MODEL, user(CALLING), tools=TOOLS, stream=True)]
            results = [{"role": "tool", "tool_name": "get_weather", "content": each} for each in ("sun", "rain")]
            await client.chat(CHAT_MODEL, [*user(CALLING), whole.message, *results], tools=TOOLS)

    said = [part.message for part in parts]
    assert [message.thinking for message in said] == ["Hm.", None, None, None]
    assert [message.content for message in said] == ["", "Look", "", ""]
    assert [len(message.tool_calls or ()) for message in said] == [0, 0, 2, 0]
    assert parts[-1].done_reason == "stop"
    for message in (whole.message, said[2]):
        calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
        assert calls == [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]
    assert engine.asked[0].tools == (
        Tool(name="get_weather", description="Get the weather in a city.", parameters=SCHEMA),
    )
    assert engine.asked[-1].messages[1:] == (
        Message(
            role="assistant",
            content="Look",
            reasoning_content="Hm.",
            tool_calls=(
                ToolCall(id="call00000", name="get_weather", arguments='{"city":"Paris"}'),
                ToolCall(id="call00001", name="get_weather", arguments='{"city":"Rome"}'),
            ),
        ),
        Message(role="tool", name="get_weather", tool_call_id="call00000", content="sun"),
        Message(role="tool", name="get_weather", tool_call_id="call00001", content="rain"),
    )


async def test_result_answers_the_call_of_its_name_or_its_id(nats_url: str, tmp_path: Path) -> None:
    engine = KeepingEngine()
    calls = [{"id": each, "function": {"name": each, "arguments": {}}} for each in ("a", "b", "c")]
    results = [
        {"role": "tool", "content": "x", "tool_name": "b"},
        {"role": "tool", "content": "y", "tool_call_id": "c"},
        {"role": "tool", "content": "z"},
        {"role": "tool", "content": "more"},
    ]
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        messages = [{"role": "assistant", "tool_calls": calls}, *results]
        async with edge.http.post("/api/chat", json={"model": CHAT_MODEL, "messages": messages}) as response:
            await response.read()

    assert response.status == 200
    assert [message.tool_call_id for message in engine.asked[0].messages[1:]] == ["b", "c", "a", None]


async def test_what_is_said_reaches_the_model(nats_url: str, tmp_path: Path) -> None:
    engine = KeepingEngine()
    options = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.5,
        "min_p": 0.25,
        "seed": 7,
        "stop": ["x"],
        "num_predict": 5,
        "repeat_penalty": 1.5,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "num_ctx": 4096,
        "num_gpu": 1,
        "mirostat": 0,
    }
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine), catalogue(edge.bus):
        async with AsyncClient(host=edge.url) as client:
            await client.chat(CHAT_MODEL, user("a"), options=options, think="low", format="", keep_alive="5m")
            await client.generate(CHAT_MODEL, "b", system="be", think=False, options={"num_predict": -1, "seed": -1})
            await client.generate(f"{CHAT_MODEL}:latest", "c", raw=True, suffix="")

    assert engine.asked == [
        ChatRequest(
            messages=(Message(role="user", content="a"),),
            temperature=0.5,
            top_k=3,
            top_p=0.5,
            min_p=0.25,
            seed=7,
            stop=("x",),
            max_tokens=5,
            repetition_penalty=1.5,
            presence_penalty=0.5,
            frequency_penalty=0.25,
            reasoning_effort="low",
        ),
        ChatRequest(
            messages=(Message(role="system", content="be"), Message(role="user", content="b")), enable_thinking=False
        ),
        ChatRequest(prompt="c"),
    ]


async def test_format_and_logprobs_reach_the_model_and_it_refuses_in_ollamas_words(
    nats_url: str, tmp_path: Path
) -> None:
    engine = SilentEngine()
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        async with AsyncClient(host=edge.url) as client:
            for asked in ({"format": "json"}, {"format": SCHEMA}, {"logprobs": True, "top_logprobs": 2}):
                with pytest.raises(ResponseError) as raised:
                    await client.chat(CHAT_MODEL, user("a"), **asked)

    assert (raised.value.status_code, raised.value.error) == (400, "options.num_predict is not honoured.")
    first, second, third = engine.asked
    assert first.grammar == JsonObject()
    assert isinstance(second.grammar, JsonSchema)
    assert json.loads(bytes(second.grammar.schema)) == SCHEMA
    assert third.top_logprobs == 2


async def test_generate_answers_whole_and_as_a_stream(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        async with AsyncClient(host=edge.url) as client:
            whole = await client.generate(CHAT_MODEL, "think: Hm.\none two")
            parts = [part async for part in await client.generate(CHAT_MODEL, "one two", stream=True)]

    assert (whole.response, whole.thinking, whole.done_reason) == ("one two", "Hm.", "stop")
    assert [part.response for part in parts] == ["one", " two", ""]
    assert (parts[-1].done, parts[-1].eval_count, parts[-1].thinking) == (True, 2, None)


async def test_embeddings_are_those_of_the_model(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, embeddings_actor(edge.bus, EchoEmbeddings(context_length=2)):
        async with AsyncClient(host=edge.url) as client:
            one = await client.embed(EMBED_MODEL, "first")
            many = await client.embed(EMBED_MODEL, ["first", "a b c"], options={"num_ctx": 9}, keep_alive=60)
            legacy = await client.embeddings(EMBED_MODEL, "a b")
            long = await failing(client.embed(EMBED_MODEL, "a b c", truncate=False))
            empty = [
                await failing(client.embed(EMBED_MODEL, "")),
                await failing(client.embed(EMBED_MODEL, ["a", ""])),
                await failing(client.embeddings(EMBED_MODEL, "")),
            ]
            short = await client.embed(EMBED_MODEL, "first", dimensions=2)
            odd = await failing(client.embed(EMBED_MODEL, "a", dimensions=3))
        openai = await edge.openai.embeddings.create(model=EMBED_MODEL, input=["first", "a b"])

    first, second = (each.embedding for each in openai.data)
    assert one.embeddings == [first]
    assert many.embeddings == [first, second]
    assert legacy.embedding == second
    assert (many.model, many.prompt_eval_count, many.load_duration) == (EMBED_MODEL, 3, 0)
    assert many.total_duration
    assert (long.status_code, "maximum context length is 2" in long.error) == (400, True)
    assert [each.error for each in empty] == ["input is empty.", "input[1] is empty.", "prompt is empty."]
    assert (len(short.embeddings[0]), short.embeddings[0][0] / first[0]) == (
        2,
        pytest.approx(1 / math.hypot(*first[:2])),
    )
    assert (odd.status_code, "offers 2, 4, 8 dimensions" in odd.error) == (400, True)
