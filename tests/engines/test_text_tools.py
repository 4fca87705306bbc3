"""Tools and reasoning through the templates and the engine: tiny random models, and the toy that calls."""

import json
from pathlib import Path
from typing import Any

import pytest

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from bus.calls import whole_calls
from bus.messages.chat import ChatChunk, ChatRequest, Message, Tool, ToolCall
from tests.support import tiny_models
from tests.support.text import HELLO, chunks, refusal

pytestmark = pytest.mark.asyncio(loop_scope="session")

WEATHER = Tool(
    name="get_weather",
    description="Get the weather in a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
TWO_CITIES = "What is the weather in Paris and in Rome?"


def asked(text: str, **settings: Any) -> ChatRequest:
    messages = (Message(role="user", content=text),)
    return ChatRequest(messages=messages, temperature=0, **({"tools": (WEATHER,)} | settings))


def cities(said: list[ChatChunk]) -> list[str]:
    calls = whole_calls(delta for chunk in said for delta in chunk.tool_calls)
    assert {call.name for call in calls} <= {"get_weather"}
    return [json.loads(call.arguments)["city"] for call in calls]


def text(said: list[ChatChunk]) -> str:
    return "".join(chunk.text for chunk in said)


def rendered(engine: TextEngine, request: ChatRequest) -> str:
    return str(engine._loaded().tokenizer.decode(engine.prepare(request).prompt))


async def test_two_calls_in_one_answer_are_two(toy: TextEngine) -> None:
    said = await chunks(toy, asked(TWO_CITIES))

    assert cities(said) == ["Paris", "Rome"]
    assert (text(said), said[-1].finish_reason) == ("", "tool_calls")


async def test_single_call_ends_the_answer(toy: TextEngine) -> None:
    both = await chunks(toy, asked(TWO_CITIES))
    said = await chunks(toy, asked(TWO_CITIES, parallel_tool_calls=False))
    await toy.ping()

    assert cities(said) == ["Paris"]
    assert (text(said), said[-1].finish_reason) == ("", "tool_calls")
    assert said[-1].usage is not None
    assert both[-1].usage is not None
    assert said[-1].usage.completion_tokens < both[-1].usage.completion_tokens
    assert toy._loaded().batch._rows == {}


async def test_call_that_is_cut_off_is_content(toy: TextEngine) -> None:
    said = await chunks(toy, asked("What is the weather in Paris?", max_tokens=10))

    assert cities(said) == []
    assert text(said).startswith('<tool_call>\n{"name": "get_weather"')
    assert said[-1].finish_reason == "length"


async def test_model_does_not_hear_of_tools_that_it_must_not_call(toy: TextEngine) -> None:
    forbidden = asked("What is the weather in Paris?", tool_choice="none")

    assert rendered(toy, forbidden) == rendered(toy, asked("What is the weather in Paris?", tools=()))
    assert cities(await chunks(toy, forbidden)) == []


async def test_calls_and_their_answers_are_rendered_with_arguments_as_an_object(thinking_engine: TextEngine) -> None:
    messages = (
        HELLO,
        Message(
            role="assistant",
            reasoning_content="Hm.",
            tool_calls=(
                ToolCall(id="1", name="f", arguments='{"b": "ü", "a": 1}'),
                ToolCall(id="2", name="g", arguments=""),
            ),
        ),
        Message(role="tool", content="sunny", tool_call_id="1"),
    )

    written = rendered(thinking_engine, ChatRequest(messages=messages))

    assert written == (
        "user: Hello\n"
        'assistant: <think>Hm.</think><tool_call>f [["a", 1], ["b", "ü"]]</tool_call><tool_call>g []</tool_call>\n'
        "tool: sunny for 1\n"
        "assistant: <think>\n"
    )


async def test_tool_without_description_and_parameters_is_rendered_with_empty_ones(
    thinking_engine: TextEngine,
) -> None:
    written = rendered(thinking_engine, ChatRequest(messages=(HELLO,), tools=(Tool(name="f"),)))

    tool = json.loads(written.splitlines()[0].removeprefix("tool: "))
    parameters = {"type": "object", "properties": {}}
    assert tool == {"type": "function", "function": {"name": "f", "description": "", "parameters": parameters}}


async def test_template_that_opens_the_reasoning_begins_in_it(thinking_engine: TextEngine) -> None:
    settings: dict[str, Any] = {"messages": (HELLO,), "temperature": 0, "max_tokens": 8}
    # The mark that would end the reasoning, and the end of the turn.
    never = {"logit_bias": dict.fromkeys((1, 2, 3, 4, 5), -100)}

    thought = await chunks(thinking_engine, ChatRequest(**settings, **never))
    said = await chunks(thinking_engine, ChatRequest(**settings, **never, enable_thinking=False))

    assert text(thought) == ""
    assert "".join(chunk.reasoning for chunk in thought)
    assert text(said)
    assert "".join(chunk.reasoning for chunk in said) == ""


async def test_user_who_writes_the_mark_does_not_open_the_reasoning(thinking_engine: TextEngine) -> None:
    messages = (Message(role="user", content="<think>"),)

    work = thinking_engine.prepare(ChatRequest(messages=messages, enable_thinking=False))

    assert work.opening == "normal"


async def test_prompt_that_is_continued_is_not_split(thinking_engine: TextEngine) -> None:
    request = ChatRequest(prompt="Work", max_tokens=2, temperature=0, logit_bias={2: 100})

    said = await chunks(thinking_engine, request)

    assert text(said) == "<think><think>"


@pytest.mark.parametrize(
    ("settings", "is_open"),
    [
        ({}, True),
        ({"enable_thinking": True}, True),
        ({"enable_thinking": False}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning_effort": "none", "enable_thinking": False}, False),
    ],
)
async def test_effort_is_a_switch_where_the_template_has_only_that(
    thinking_engine: TextEngine, settings: dict[str, Any], is_open: bool
) -> None:
    work = thinking_engine.prepare(ChatRequest(messages=(HELLO,), **settings))

    assert work.opening == ("reasoning" if is_open else "normal")


async def test_effort_goes_to_a_template_that_reads_it(tiny_llama: Path, tmp_path: Path) -> None:
    template = "Effort: {{ reasoning_effort }}"
    folder = tiny_models.changed(tiny_llama, tmp_path / "model", tokenizer_config={"chat_template": template})
    engine = TextEngine(folder, TextLimits(warmup=False))
    await engine.load()

    written = rendered(engine, ChatRequest(messages=(HELLO,), reasoning_effort="high"))
    await engine.unload()

    assert written == "Effort: high"


async def test_model_that_does_not_think_may_be_told_not_to(text_engine: TextEngine) -> None:
    plain = rendered(text_engine, ChatRequest(messages=(HELLO,)))

    for settings in ({"enable_thinking": False}, {"reasoning_effort": "none"}):
        assert rendered(text_engine, ChatRequest(messages=(HELLO,), **settings)) == plain


@pytest.mark.parametrize(
    ("settings", "code", "param"),
    [
        ({"tools": (WEATHER,)}, "unsupported_parameter", "tools"),
        ({"enable_thinking": True}, "unsupported_parameter", "enable_thinking"),
        ({"reasoning_effort": "low"}, "unsupported_parameter", "reasoning_effort"),
        ({"reasoning_effort": "low", "enable_thinking": False}, "invalid_request", "reasoning_effort"),
    ],
)
async def test_model_refuses_by_name_what_it_has_no_form_for(
    text_engine: TextEngine, settings: dict[str, Any], code: str, param: str
) -> None:
    assert refusal(text_engine, ChatRequest(messages=(HELLO,), **settings)) == (code, param)


@pytest.mark.parametrize(
    ("settings", "param"),
    [({"tools": (WEATHER,)}, "tools"), ({"reasoning_effort": "none"}, "reasoning_effort")],
)
async def test_prompt_takes_nothing_that_belongs_to_messages(
    thinking_engine: TextEngine, settings: dict[str, Any], param: str
) -> None:
    assert refusal(thinking_engine, ChatRequest(prompt="Work", **settings)) == ("invalid_request", param)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (Message(role="user", tool_calls=(ToolCall(id="1", name="f", arguments="{}"),)), "messages[0].tool_calls"),
        (Message(role="user", tool_call_id="1"), "messages[0].tool_call_id"),
        (Message(role="user", reasoning_content="Hm."), "messages[0].reasoning_content"),
        *(
            (
                Message(role="assistant", tool_calls=(ToolCall(id="1", name="f", arguments=arguments),)),
                "messages[0].tool_calls[0]",
            )
            for arguments in ("[]", "{", "[" * 100_000)
        ),
    ],
)
async def test_message_that_does_not_fit_its_role_is_refused(
    thinking_engine: TextEngine, message: Message, param: str
) -> None:
    assert refusal(thinking_engine, ChatRequest(messages=(message,))) == ("invalid_request", param)


async def test_template_that_fails_on_an_odd_tool_refuses_the_request(tiny_thinker: Path, tmp_path: Path) -> None:
    template = (
        "{% for name, each in tools[0].function.parameters.properties | items %}"
        "<tool_call>{{ tool_call.name }}"
        "{% endfor %}"
    )
    folder = tiny_models.changed(tiny_thinker, tmp_path / "model", tokenizer_config={"chat_template": template})
    engine = TextEngine(folder, TextLimits(warmup=False))
    await engine.load()
    tool = Tool(name="f", parameters={"properties": [1]})

    refused = refusal(engine, ChatRequest(messages=(HELLO,), tools=(tool,)))
    await engine.unload()

    assert refused == ("invalid_request", "messages")
