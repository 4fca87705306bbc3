"""Answers that have to be calls: models of random weights make them, in the form of their family."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from actors.engines.text import TextEngine
from actors.engines.text_calls import call_form
from actors.engines.text_split import splitter_of
from bus.messages.chat import ChatRequest, Message, NamedTool, Regex, Tool
from tests.support import tiny_models
from tests.support.text import HELLO, TIME, WEATHER, asked, check, loaded, refusal, said

pytestmark = pytest.mark.asyncio(loop_scope="session")

FAMILIES = {
    "json_tools": ("<tool_call>", "</tool_call>", "tool_call.name"),
    "mistral": ("[TOOL_CALLS]",),
    "mistral with headers": ("[TOOL_CALLS]", "[ARGS]"),
    "kimi_k2": (
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    ),
}


@pytest_asyncio.fixture(params=FAMILIES.values(), ids=FAMILIES, scope="module", loop_scope="session")
async def caller(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[TextEngine]:
    folder = tmp_path_factory.mktemp("models") / "caller"
    async with loaded(tiny_models.marked(folder, request.param)) as engine:
        yield engine


async def test_random_model_calls_when_it_must(caller: TextEngine) -> None:
    settings = {"tool_choice": "required", "parallel_tool_calls": False}

    answers = await asyncio.gather(*(said(caller, asked(seed=seed, **settings)) for seed in range(8)))

    assert [(each.text, each.reason, len(each.calls)) for each in answers] == [("", "tool_calls", 1)] * 8
    for each in answers:
        check(each.calls[0])


@pytest.mark.parametrize("is_single", [False, True])
async def test_calls_in_the_form_of_the_family_are_allowed_and_read(caller: TextEngine, is_single: bool) -> None:
    form, dialect = call_form(caller._loaded().dialect), caller._loaded().dialect
    assert form is not None
    blocks = [form.named("get-time").replace("{number}", str(index)) + "{}" + form.after for index in range(2)]
    inside = blocks if form.between is None else [form.between.join(blocks)]
    text = "\n".join(f"{dialect.call_start}{form.begin}{each}{form.end}{dialect.call_end}" for each in inside)
    work = caller.prepare(asked(tool_choice="required", parallel_tool_calls=not is_single))
    tokens, matcher, splitter = caller._loaded().token_bytes, work.grammar, splitter_of(dialect, work)
    assert tokens is not None
    assert matcher is not None

    is_allowed = matcher.deep_copy().consume_tokens(tokens.tokenize_str(text, parse_special=True))
    read = [splitter.feed(text), splitter.flush(was_cut=False)]

    assert is_allowed is not is_single
    assert [call.name for chunk in read for call in chunk.tool_calls] == ["get-time"] * (1 if is_single else 2)
    assert "".join(chunk.text for chunk in read) == ""


async def test_named_tool_is_called_once_and_alone(caller: TextEngine) -> None:
    answers = [
        await said(caller, asked(tool_choice=NamedTool(name="get_weather"), logit_bias={1: -100.0}, seed=seed))
        for seed in range(2)
    ]

    for each in answers:
        assert (each.text, each.reason, len(each.calls)) == ("", "tool_calls", 1)
        assert each.calls[0].name == "get_weather"
        check(each.calls[0])


async def test_toy_that_must_call_calls_what_it_was_asked_about(toy: TextEngine) -> None:
    weather = Tool(
        name="get_weather",
        description="Get the weather in a city.",
        parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    )
    question = Message(role="user", content="What is the weather in Paris?")
    settings: dict[str, Any] = {"messages": (question,), "tools": (weather,), "temperature": 0}
    free = await said(toy, ChatRequest(**settings))

    forced = await said(toy, ChatRequest(**settings, tool_choice="required"))
    strict = await said(toy, ChatRequest(**(settings | {"tools": (msgspec.structs.replace(weather, strict=True),)})))
    greeting = await said(toy, ChatRequest(**(settings | {"messages": (HELLO,), "tool_choice": "required"})))

    arguments = [[call.arguments for call in each.calls] for each in (free, forced, strict)]
    assert arguments == [['{"city": "Paris"}']] * 3
    assert greeting.calls


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": NamedTool(name="get-time")}, "tool_choice"),
        ({"tools": (TIME, msgspec.structs.replace(WEATHER, strict=True))}, "tools[1].strict"),
        ({"grammar": Regex(pattern="[A-Z]+")}, "grammar"),
    ],
)
async def test_family_whose_calls_are_not_json_is_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], param: str
) -> None:
    async with loaded(
        tiny_models.marked(tmp_path / "pythonic", ("<|tool_call_start|>", "<|tool_call_end|>"))
    ) as engine:
        refused = refusal(engine, asked(**settings))
        free = engine.prepare(asked())

    assert refused == ("unsupported_parameter", param)
    assert free.grammar is None


async def test_name_that_the_family_cannot_write_is_refused(tmp_path: Path) -> None:
    async with loaded(tiny_models.marked(tmp_path / "mistral", ("[TOOL_CALLS]", "[ARGS]"))) as engine:
        refused = refusal(engine, asked(tools=(TIME, Tool(name="a b")), tool_choice="required"))

    assert refused == ("unsupported_parameter", "tools[1].name")
