"""Tools and reasoning as the official client has them, and as bytes; and with a real model that calls."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from openai import BadRequestError, pydantic_function_tool
from pydantic import BaseModel, Field

from actors.engines.blas import prepare_blas
from actors.engines.echo import EchoEngine
from bus.errors import RefusedError
from bus.messages.chat import ChatRequest, Message, NamedTool, Tool, ToolCall
from tests.support.stack import CHAT_MODEL, KeepingEngine, chat_actor, chat_body, stack

# Before anything here imports mlx.
prepare_blas()

from actors.engines.text import TextEngine  # noqa: E402 - imports mlx
from actors.engines.text_model import TextLimits  # noqa: E402 - imports mlx

TOY = Path(__file__).parents[2] / "models" / "fusion-toy"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "Get the weather in a city.", "parameters": SCHEMA},
    }
]
TEXT = 'think: Hm.\ncall: get_weather {"city": "Paris"}\ncall: get_weather {"city": "Rome"}\n'
MESSAGES: list[Any] = [{"role": "user", "content": TEXT}]
QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]


class GetWeather(BaseModel):
    city: Literal["Paris", "Rome"]
    days: int = Field(ge=1, le=3)


class UncallingEngine(EchoEngine):
    """Refuses tools, as a model does whose template has no form for them."""

    def prepare(self, request: ChatRequest) -> Any:
        if request.tools:
            raise RefusedError("unsupported_parameter", "This model cannot call tools.", param="tools")
        return super().prepare(request)


async def test_whole_answer_has_calls_and_reasoning_and_no_content(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        answer = await edge.openai.chat.completions.create(model=CHAT_MODEL, messages=MESSAGES, tools=TOOLS)
        async with edge.http.post("/v1/chat/completions", json=chat_body("hi")) as response:
            plain = (await response.json())["choices"][0]["message"]

    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.model_dump(exclude_unset=True) == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {
                "id": f"call-{index}",
                "type": "function",
                "function": {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'},
            }
            for index, city in enumerate(("Paris", "Rome"))
        ],
        "refusal": None,
    }
    assert plain == {"role": "assistant", "content": "hi", "refusal": None}


async def test_stream_tells_index_always_and_id_and_name_once(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, EchoEngine()):
        body = chat_body(TEXT, tools=TOOLS, stream=True)
        async with edge.http.post("/v1/chat/completions", json=body) as response:
            frames = (await response.text()).split("\n\n")

    choices = [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames[:-2]]
    first, second = (
        [
            {"index": index, "id": f"call-{index}", "type": "function", "function": function},
            {"index": index, "function": {"arguments": f'{{"city": "{city}"}}'}},
        ]
        for index, city in enumerate(("Paris", "Rome"))
        for function in ({"name": "get_weather", "arguments": ""},)
    )
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm."},
        *({"tool_calls": [piece]} for piece in first + second),
        {},
    ]
    assert choices[-1]["finish_reason"] == "tool_calls"


async def test_stream_helper_assembles_calls_that_can_be_sent_back(nats_url: str, tmp_path: Path) -> None:
    engine = KeepingEngine()
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        async with edge.openai.chat.completions.stream(model=CHAT_MODEL, messages=MESSAGES, tools=TOOLS) as stream:
            kinds = [event.type async for event in stream]
            message = (await stream.get_final_completion()).choices[0].message
        history: list[Any] = [*MESSAGES, message, {"role": "tool", "tool_call_id": "call-0", "content": "sunny"}]
        await edge.openai.chat.completions.create(model=CHAT_MODEL, messages=history, tools=TOOLS)

    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert engine.asked[-1].messages[1:] == (
        Message(
            role="assistant",
            reasoning_content="Hm.",
            tool_calls=(
                ToolCall(id="call-0", name="get_weather", arguments='{"city": "Paris"}'),
                ToolCall(id="call-1", name="get_weather", arguments='{"city": "Rome"}'),
            ),
        ),
        Message(role="tool", tool_call_id="call-0", content="sunny"),
    )


async def test_request_for_tools_and_reasoning_reaches_the_model(nats_url: str, tmp_path: Path) -> None:
    engine = KeepingEngine()
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        answer = await edge.openai.chat.completions.create(
            model=CHAT_MODEL,
            messages=MESSAGES,
            tools=TOOLS,
            tool_choice="none",
            parallel_tool_calls=False,
            reasoning_effort="low",
            extra_body={"chat_template_kwargs": {"enable_thinking": True}},
        )

    (asked,) = engine.asked
    assert asked.tools == (Tool(name="get_weather", description="Get the weather in a city.", parameters=SCHEMA),)
    assert (asked.tool_choice, asked.parallel_tool_calls) == ("none", False)
    assert (asked.reasoning_effort, asked.enable_thinking) == ("low", True)
    assert answer.choices[0].message.tool_calls is None


async def test_choice_of_tools_reaches_the_model(nats_url: str, tmp_path: Path) -> None:
    engine = KeepingEngine()
    strict: Any = [{"type": "function", "function": TOOLS[0]["function"] | {"strict": True}}]
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        ask: dict[str, Any] = {"model": CHAT_MODEL, "messages": HELLO, "tools": strict}
        required = await edge.openai.chat.completions.create(tool_choice="required", **ask)
        await edge.openai.chat.completions.create(tool_choice=NAMED, **ask)

    assert [each.tool_choice for each in engine.asked] == ["required", NamedTool(name="get_weather")]
    assert engine.asked[0].tools[0].strict is True
    (call,) = required.choices[0].message.tool_calls or []
    assert (call.type, required.choices[0].finish_reason) == ("function", "tool_calls")


async def test_tools_that_cannot_be_enforced_are_named_before_the_status_line(nats_url: str, tmp_path: Path) -> None:
    bad = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    strict: Any = [*TOOLS, {"type": "function", "function": {"name": "f", "parameters": bad, "strict": True}}]
    engine = TextEngine(TOY, TextLimits(warmup=False))
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        for stream in (False, True):
            with pytest.raises(BadRequestError) as raised:
                await edge.openai.chat.completions.create(
                    model=CHAT_MODEL, messages=QUESTION, tools=strict, stream=stream
                )

            assert (raised.value.code, raised.value.param) == ("invalid_request", "tools[1].function.parameters")
            assert "uniqueItems" in raised.value.message
        await engine.unload()


async def test_toy_must_call_and_its_calls_parse_as_the_models_of_pydantic(nats_url: str, tmp_path: Path) -> None:
    engine = TextEngine(TOY, TextLimits(warmup=False))
    tools = [pydantic_function_tool(GetWeather, name="get_weather")]
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        ask: dict[str, Any] = {"model": CHAT_MODEL, "tools": tools, "parallel_tool_calls": False}
        parsed = await edge.openai.chat.completions.parse(messages=HELLO, tool_choice="required", n=2, **ask)
        async with edge.openai.chat.completions.stream(messages=HELLO, tool_choice=NAMED, **ask) as stream:
            streamed = await stream.get_final_completion()
        await engine.unload()

    for choice in (*parsed.choices, *streamed.choices):
        assert choice.finish_reason == "tool_calls"
        for call in choice.message.tool_calls or []:
            assert isinstance(call.function.parsed_arguments, GetWeather)
    assert [len(each.message.tool_calls or []) for each in (*parsed.choices, *streamed.choices)] == [1] * 3


async def test_model_that_cannot_call_refuses_tools_by_name(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, UncallingEngine()):
        with pytest.raises(BadRequestError) as raised:
            await edge.openai.chat.completions.create(model=CHAT_MODEL, messages=MESSAGES, tools=TOOLS, stream=True)

    assert (raised.value.code, raised.value.param) == ("unsupported_parameter", "tools")


async def test_toy_calls_a_tool_and_answers_with_what_it_says(nats_url: str, tmp_path: Path) -> None:
    engine = TextEngine(TOY, TextLimits(warmup=False))
    async with stack(nats_url, tmp_path) as edge, chat_actor(edge.bus, engine):
        ask: dict[str, Any] = {"model": CHAT_MODEL, "tools": TOOLS, "temperature": 0}
        whole = await edge.openai.chat.completions.create(messages=QUESTION, **ask)
        async with edge.openai.chat.completions.stream(messages=QUESTION, **ask) as stream:
            streamed = await stream.get_final_completion()
        message = whole.choices[0].message
        assert message.tool_calls
        said = json.dumps({"temperature": 21, "condition": "sunny"})
        result: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": said}
        answer = await edge.openai.chat.completions.create(messages=[*QUESTION, message, result], **ask)
        await engine.unload()

    for each in (whole, streamed):
        (call,) = each.choices[0].message.tool_calls or []
        assert each.choices[0].finish_reason == "tool_calls"
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assert message.content is None
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == "It is sunny and 21 degrees in Paris."
