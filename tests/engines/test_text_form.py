"""Answers that are kept to a grammar after a thought, or to calls in it: models of random weights obey too."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import pytest_asyncio

from actors.engines.text import TextEngine
from bus.messages.chat import ChatRequest, Choice, Grammar, JsonSchema, Lark, NamedTool, Regex, Tool
from tests.support import tiny_models
from tests.support.text import SCHEMA, TIME, WEATHER, Said, asked, check, loaded, refusal, said

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHOUT = Regex(pattern="[A-Z]{3,5}")
# Of the tiny thinker: these end the turn and the thought as soon as they may.
SHORT = {1: 100.0, 3: 50.0}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def thinker(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[TextEngine]:
    template = "tool_call.name {{ '<think>' if enable_thinking else '<think></think>' }}"
    folder = tmp_path_factory.mktemp("models") / "thinker"
    async with loaded(tiny_models.marked(folder, tiny_models.MARKS, template)) as engine:
        yield engine


def schema(value: dict[str, Any]) -> JsonSchema:
    return JsonSchema(schema=msgspec.Raw(msgspec.json.encode(value)))


@pytest.mark.parametrize("enable_thinking", [True, False])
@pytest.mark.parametrize(
    "grammar", [schema(SCHEMA), SHOUT, Choice(options=("yes", "<think>no")), Lark(source='start: "a" "b"\n%ignore / /')]
)
async def test_grammar_holds_after_the_thought(thinker: TextEngine, grammar: Grammar, enable_thinking: bool) -> None:
    request = asked(tools=(), grammar=grammar, enable_thinking=enable_thinking, logit_bias={1: 100.0, 3: 5.0})
    answers = await asyncio.gather(*(said(thinker, msgspec.structs.replace(request, seed=seed)) for seed in range(4)))

    assert {each.reason for each in answers} == {"stop"}
    assert any(each.reasoning for each in answers) is enable_thinking
    for each in answers:
        match grammar:
            case JsonSchema():
                jsonschema.validate(json.loads(each.text), SCHEMA)
            case Regex(pattern=pattern):
                assert re.fullmatch(pattern, each.text)
            case Choice(options=options):
                assert each.text in options
            case _:
                assert each.text.replace(" ", "") == "ab"


async def test_model_that_may_think_by_itself_does_or_not(tmp_path: Path) -> None:
    request = asked(tools=(), grammar=SHOUT, logit_bias={1: 100.0, 2: 5.0, 3: 5.0})
    async with loaded(tiny_models.marked(tmp_path / "model", tiny_models.MARKS)) as engine:
        answers = [await said(engine, msgspec.structs.replace(request, seed=seed)) for seed in range(8)]

    assert {bool(each.reasoning) for each in answers} == {False, True}
    assert all(re.fullmatch("[A-Z]{3,5}", each.text) for each in answers)


async def test_thought_that_fills_the_answer_leaves_no_content(thinker: TextEngine) -> None:
    answer = await said(thinker, asked(tools=(), grammar=SHOUT, logit_bias={3: -100.0}, max_tokens=20))

    assert (answer.text, answer.reason) == ("", "length")
    assert answer.reasoning


async def test_model_thinks_and_then_calls_what_it_must(thinker: TextEngine) -> None:
    request = asked(tool_choice="required", logit_bias={1: 100.0, 3: 5.0})
    answers = [await said(thinker, msgspec.structs.replace(request, seed=seed)) for seed in range(4)]

    assert [(each.text, each.reason, len(each.calls)) for each in answers] == [("", "tool_calls", 1)] * 4
    assert any(each.reasoning for each in answers)
    for each in answers:
        check(each.calls[0])


async def test_answer_is_a_call_or_kept_to_the_grammar(thinker: TextEngine) -> None:
    request = asked(grammar=SHOUT, logit_bias=SHORT | {4: 4.0})
    answers = [await said(thinker, msgspec.structs.replace(request, seed=seed)) for seed in range(12)]

    called = [each for each in answers if each.calls]
    spoken = [each for each in answers if not each.calls]
    assert called
    assert spoken
    assert {(each.text, each.reason) for each in called} == {("", "tool_calls")}
    assert all(re.fullmatch("[A-Z]{3,5}", each.text) and each.reason == "stop" for each in spoken)


async def test_grammar_does_not_stand_in_for_a_call_that_must_be_made(thinker: TextEngine) -> None:
    answer = await said(thinker, asked(grammar=SHOUT, tool_choice="required", logit_bias=SHORT))

    assert (answer.text, answer.reason, len(answer.calls)) == ("", "tool_calls", 1)


async def test_strict_call_is_right_wherever_it_comes_in_free_text(thinker: TextEngine) -> None:
    strict = msgspec.structs.replace(WEATHER, strict=True)
    settings: dict[str, Any] = {"tools": (strict,), "enable_thinking": False, "max_tokens": 120}
    answers = await asyncio.gather(
        *(said(thinker, asked(logit_bias={4: 3.0}, seed=seed, **settings)) for seed in range(8))
    )
    silent = await said(thinker, asked(logit_bias={4: -100.0}, **settings))
    free = await said(thinker, asked(logit_bias={4: -100.0}, **(settings | {"tools": (WEATHER,)})))

    calls = [call for each in answers for call in each.calls]
    assert calls
    assert any(each.text for each in answers)
    for call in calls:
        check(call)
    assert (silent.calls, bool(silent.text), bool(free.text)) == ((), True, True)


@pytest.mark.parametrize("is_special", [True, False])
async def test_strict_call_begins_where_its_mark_is_written_or_spelled(
    tiny_llama: Path, tmp_path: Path, is_special: bool
) -> None:
    marks, template = ("<tool_call>", "</tool_call>"), "<tool_call> tool_call.name"
    folder = tmp_path / "model"
    if is_special:
        tiny_models.marked(folder, marks, template)
    else:
        tiny_models.changed(tiny_llama, folder, tokenizer_config={"chat_template": template})
    call = '<tool_call>\n{"name": "get-time", "arguments": {}}\n</tool_call>'
    async with loaded(folder) as engine:
        work = engine.prepare(asked(tools=(msgspec.structs.replace(TIME, strict=True),)))
        tokens, matcher = engine._loaded().token_bytes, work.grammar
        assert tokens is not None
        assert matcher is not None

        def is_allowed(text: str, *, is_spelled: bool = False) -> bool:
            written = tokens.greedy_tokenize(text) if is_spelled else tokens.tokenize_str(text, parse_special=True)
            return matcher.deep_copy().consume_tokens(written)

        allowed = [is_allowed(each) for each in ("Hi <tool", f"Hi <b>\n{call} and {call}", call + call)]
        forbidden = [is_allowed(each) for each in ("Hi <tool_call>x", call.replace("time", "tome"))]
        spelled = is_allowed("Hi <tool_call>x", is_spelled=True)

    assert (allowed, forbidden, spelled) == ([True] * 3, [False] * 2, False)


async def test_kept_rows_are_the_same_alone_and_beside_free_ones(thinker: TextEngine) -> None:
    bias = {1: 4.0, 3: 6.0, 4: 4.0}
    forms: list[dict[str, Any]] = [
        {"tool_choice": "required"},
        {"tool_choice": NamedTool(name="get-time"), "stop": ("e",)},
        {"tools": (), "grammar": schema(SCHEMA), "top_k": 40},
        {"grammar": SHOUT, "presence_penalty": 1.0},
        {"tools": (msgspec.structs.replace(WEATHER, strict=True), TIME)},
        {},
        {"tools": (), "stop": ("a",)},
        {"tools": (), "enable_thinking": False, "grammar": SHOUT, "top_logprobs": 2},
    ]
    mixed = [asked(seed=seed, logit_bias=bias, max_tokens=60, **each) for seed, each in enumerate(forms)]
    alone = [await unnumbered(thinker, each) for each in mixed]

    together = await asyncio.gather(*(unnumbered(thinker, each) for each in mixed))

    assert list(together) == alone


async def test_answer_that_is_left_in_its_grammar_frees_its_place(thinker: TextEngine) -> None:
    request = asked(tools=(), grammar=Regex(pattern="[a-z]+"), enable_thinking=False, logit_bias={1: -100.0})
    async with aclosing(thinker.generate(thinker.prepare(request))) as answer:
        first = await anext(answer)
    await thinker.ping()

    assert first.text
    assert thinker._loaded().batch._rows == {}


async def unnumbered(engine: TextEngine, request: ChatRequest) -> tuple[Said, list[tuple[str, str]]]:
    answer = await said(engine, request)
    calls = [(call.name, call.arguments) for call in answer.calls]
    return msgspec.structs.replace(answer, calls=()), calls


UNKNOWN = NamedTool(name="get_time")
BAD = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}


@pytest.mark.parametrize(
    ("settings", "code", "param"),
    [
        ({"tool_choice": UNKNOWN}, "invalid_request", "tool_choice"),
        ({"tool_choice": UNKNOWN, "tools": ()}, "invalid_request", "tool_choice"),
        ({"tool_choice": "required", "tools": ()}, "invalid_request", "tool_choice"),
        ({"tools": (TIME, Tool(name="f", parameters=BAD, strict=True))}, "invalid_request", "tools[1].parameters"),
        (
            {"tools": (Tool(name="f", parameters={"type": "array"}, strict=True),)},
            "invalid_request",
            "tools[0].parameters",
        ),
        ({"tools": (TIME,), "grammar": Regex(pattern="(")}, "invalid_request", "grammar.pattern"),
        ({"tools": (), "grammar": Regex(pattern="a" * 300_000)}, "invalid_request", "grammar.pattern"),
    ],
)
async def test_what_cannot_be_kept_is_refused_by_name(
    thinker: TextEngine, settings: dict[str, Any], code: str, param: str
) -> None:
    assert refusal(thinker, asked(**settings)) == (code, param)


async def test_what_is_not_strict_may_have_a_schema_that_cannot_be_enforced(thinker: TextEngine) -> None:
    work = thinker.prepare(asked(tools=(Tool(name="f", parameters=BAD),), tool_choice="required"))

    assert work.grammar is not None
