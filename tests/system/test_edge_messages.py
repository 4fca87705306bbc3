"""Anthropic's messages as the official client, and as bytes; and with a real model that calls."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from actors.engines.blas import prepare_blas
from actors.engines.echo import EchoEngine
from bus.messages.chat import Message, NamedTool, ToolCall
from tests.support.anthropic_client import asked, talking
from tests.support.stack import CHAT_MODEL, KeepingEngine, chat_actor, stack

# Before anything here imports mlx.
prepare_blas()

from actors.engines.text import TextEngine  # noqa: E402 - imports mlx
from actors.engines.text_model import TextLimits  # noqa: E402 - imports mlx

TOY = Path(__file__).parents[2] / "models" / "fusion-toy"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [{"name": "get_weather", "description": "Get the weather in a city.", "input_schema": SCHEMA}]
TEXT = 'think: Hm.\nlook here call: get_weather\ncall: get_weather {"city": "Paris"}\ncall: now {}\n'


async def test_whole_answer_has_text_usage_and_ids(nats_url: str, tmp_path: Path) -> None:
    async with talking(nats_url, tmp_path, EchoEngine()) as client:
        answer = await client.messages.create(**asked(), extra_headers={"x-request-id": "mine"})

    assert answer._request_id == "mine"
    assert answer.model_dump(exclude_unset=True) == {
        "id": "msg_mine",
        "type": "message",
        "role": "assistant",
        "model": CHAT_MODEL,
        "content": [{"type": "text", "text": "hello big world"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 3,
        },
    }


async def test_stream_is_these_bytes(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        body = asked("think: Hm.\ncall: now {}\nhi", tools=[{"name": "now", "input_schema": {}}], stream=True)
        async with edge.http.post("/v1/messages", json=body, headers={"x-request-id": "r"}) as response:
            got = (await response.read()).decode()

    usage = (
        '"usage":{{"input_tokens":{},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":{}}}'
    )
    head = f'"id":"msg_r","type":"message","role":"assistant","model":"{CHAT_MODEL}"'
    nothing = '"content":[],"stop_reason":null,"stop_sequence":null'
    events = [
        f'"message_start","message":{{{head},{nothing},{usage.format(0, 0)}}}',
        '"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}',
        '"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm."}',
        '"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":""}',
        '"content_block_stop","index":0',
        '"content_block_start","index":1,"content_block":{"type":"text","text":""}',
        '"content_block_delta","index":1,"delta":{"type":"text_delta","text":"hi"}',
        '"content_block_stop","index":1',
        '"content_block_start","index":2,"content_block":{"type":"tool_use","id":"call-0","name":"now","input":{}}',
        '"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{}"}',
        '"content_block_stop","index":2',
        f'"message_delta","delta":{{"stop_reason":"tool_use","stop_sequence":null}},{usage.format(6, 1)}',
        '"message_stop"',
    ]
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["request-id"] == "r"
    assert got == "".join(f'event: {event.split(chr(34))[1]}\ndata: {{"type":{event}}}\n\n' for event in events)


async def test_answer_with_thoughts_and_calls_can_be_sent_back(nats_url: str, tmp_path: Path) -> None:
    engine = KeepingEngine()
    async with talking(nats_url, tmp_path, engine) as client:
        whole = await client.messages.create(**asked(TEXT, tools=TOOLS))
        async with client.messages.stream(**asked(TEXT, tools=TOOLS)) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            streamed = await stream.get_final_message()
        for answer in (whole, streamed):
            result = {"type": "tool_result", "tool_use_id": "call-0", "content": [{"type": "text", "text": "sunny"}]}
            history: list[Any] = [
                {"role": "user", "content": TEXT},
                {"role": "assistant", "content": answer.content},
                {"role": "user", "content": [result, {"type": "text", "text": "and now?"}]},
            ]
            await client.messages.create(**asked(messages=history, tools=TOOLS))

    kinds = [block.type for block in whole.content]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.to_dict() for block in whole.content] == [block.to_dict() for block in streamed.content]
    assert (whole.stop_reason, whole.usage) == (streamed.stop_reason, streamed.usage)
    assert text == "look here call: get_weather\n"
    for request in engine.asked[2:]:
        assert request.messages[1:] == (
            Message(
                role="assistant",
                content=text,
                reasoning_content="Hm.",
                tool_calls=(
                    ToolCall(id="call-0", name="get_weather", arguments='{"city":"Paris"}'),
                    ToolCall(id="call-1", name="now", arguments="{}"),
                ),
            ),
            Message(role="tool", tool_call_id="call-0", content="sunny"),
            Message(role="user", content="and now?"),
        )


async def test_toy_calls_a_tool_and_its_tokens_are_counted_before(nats_url: str, tmp_path: Path) -> None:
    engine = TextEngine(TOY, TextLimits(warmup=False))
    question = asked("What is the weather in Paris?", tools=TOOLS, system="Be brief.")
    async with talking(nats_url, tmp_path, engine) as client:
        whole = await client.messages.create(**question, extra_body={"temperature": 0})
        async with client.messages.stream(**question, extra_body={"temperature": 0}) as stream:
            streamed = await stream.get_final_message()
        (call,) = whole.content
        assert call.type == "tool_use"
        said = json.dumps({"temperature": 21, "condition": "sunny"})
        question["messages"] += [
            {"role": "assistant", "content": whole.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": said}]},
        ]
        answer = await client.messages.create(**question, extra_body={"temperature": 0})
        del question["max_tokens"]
        counted = await client.messages.count_tokens(**question)
        without = await client.messages.count_tokens(**question, tool_choice={"type": "none"})
        await engine.unload()

    for each in (whole, streamed):
        (call,) = each.content
        assert each.stop_reason == "tool_use"
        assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    assert streamed.usage.cache_read_input_tokens
    assert whole.usage.input_tokens == streamed.usage.input_tokens + streamed.usage.cache_read_input_tokens
    assert [block.to_dict() for block in answer.content] == [
        {"type": "text", "text": "It is sunny and 21 degrees in Paris."}
    ]
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    assert without.input_tokens < counted.input_tokens


async def test_toy_is_kept_to_a_schema(nats_url: str, tmp_path: Path) -> None:
    class Size(BaseModel):
        is_large: bool

    engine = TextEngine(TOY, TextLimits(warmup=False))
    async with talking(nats_url, tmp_path, engine) as client:
        answer = await client.messages.parse(**asked("Is Paris large?"), output_format=Size)
        await engine.unload()

    assert isinstance(answer.parsed_output, Size)


async def test_what_is_asked_for_reaches_the_model(nats_url: str, tmp_path: Path) -> None:
    engine = KeepingEngine()
    async with talking(nats_url, tmp_path, engine) as client:
        await client.messages.create(
            **asked(tools=TOOLS),
            tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
            thinking={"type": "enabled", "budget_tokens": 1024},
            output_config={"effort": "low"},
            stop_sequences=["never"],
            metadata={"user_id": "me"},
            service_tier="auto",
            cache_control={"type": "ephemeral"},
            extra_headers={"anthropic-beta": "some-beta"},
            extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 3, "context_management": {"edits": []}},
        )
        await client.messages.create(
            **asked(tools=TOOLS), tool_choice={"type": "any"}, thinking={"type": "disabled"}, system=[]
        )
        await client.messages.create(
            **asked(tools=TOOLS), tool_choice={"type": "none"}, thinking={"type": "adaptive"}, output_config={}
        )

    first, second, third = engine.asked
    assert (first.temperature, first.top_p, first.top_k, first.max_tokens) == (0.5, 0.9, 3, 50)
    assert (first.stop, first.reasoning_effort, first.enable_thinking) == (("never",), "low", True)
    assert (first.tool_choice, first.parallel_tool_calls) == (NamedTool(name="get_weather"), False)
    assert (first.tools[0].name, first.tools[0].parameters) == ("get_weather", SCHEMA)
    assert (second.tool_choice, second.enable_thinking, second.parallel_tool_calls) == ("required", False, None)
    assert (third.tool_choice, third.tools, third.enable_thinking) == ("none", (), None)


async def test_second_request_of_claude_code_is_taken_as_it_comes(nats_url: str, tmp_path: Path) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    call = {"type": "tool_use", "id": "call-0", "name": "Bash", "input": {"command": "echo hi"}}
    result = {"tool_use_id": "call-0", "type": "tool_result", "content": "hi", "is_error": False} | mark
    body = asked(
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc;"},
            {"type": "text", "text": "Be brief."} | mark,
        ],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "run echo"}]},
            {"role": "system", "content": "Available agents: none"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""}, call]},
            {"role": "user", "content": [result]},
        ],
        tools=[{"name": "Bash", "description": "Runs a command.", "input_schema": {"type": "object"}}],
        metadata={"user_id": "{}"},
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "high"},
        stream=True,
    )
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "effort-2025-11-24", "Authorization": "Bearer none"}
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        async with edge.http.post("/v1/messages?beta=true", json=body, headers=headers) as response:
            told = await response.text()

    assert response.status == 200
    assert '{"type":"text_delta","text":"hi"}' in told
    assert told.endswith('data: {"type":"message_stop"}\n\n')


@pytest.mark.parametrize(
    ("more", "text", "reason", "sequence"),
    [
        ({}, "one two three", "end_turn", None),
        ({"max_tokens": 2}, "one two", "max_tokens", None),
        ({"stop_sequences": ["never", "o thr"]}, "one tw", "stop_sequence", "o thr"),
    ],
)
async def test_answer_tells_why_it_ended(
    nats_url: str, tmp_path: Path, more: dict[str, Any], text: str, reason: str, sequence: str | None
) -> None:
    async with talking(nats_url, tmp_path, EchoEngine()) as client:
        whole = await client.messages.create(**asked("one two three", **more))
        async with client.messages.stream(**asked("one two three", **more)) as stream:
            streamed = await stream.get_final_message()

    for answer in (whole, streamed):
        assert [block.to_dict()["text"] for block in answer.content] == [text]
        assert (answer.stop_reason, answer.stop_sequence) == (reason, sequence)


async def test_thoughts_are_left_out_if_they_are_not_to_be_shown(nats_url: str, tmp_path: Path) -> None:
    thinking: Any = {"type": "adaptive", "display": "omitted"}
    async with talking(nats_url, tmp_path, EchoEngine()) as client:
        whole = await client.messages.create(**asked("think: Hm.\nhi", thinking=thinking))
        async with client.messages.stream(**asked("think: Hm.\nhi", thinking=thinking)) as stream:
            streamed = await stream.get_final_message()

    for answer in (whole, streamed):
        assert [block.to_dict() for block in answer.content] == [
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "text", "text": "hi"},
        ]
