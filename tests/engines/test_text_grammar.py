import asyncio
import json
from typing import Any

import jsonschema
import msgspec
import pytest
from llguidance import LLMatcher, LLParserLimits

from actors.engines.text import TextEngine
from actors.engines.text_grammar import Grammars
from actors.engines.text_prompt import TextWork
from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, Choice, Grammar, JsonObject, JsonSchema, Lark, Message, Regex

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAME = {"type": "string", "maxLength": 6}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "boolean"},
    {"type": "null"},
    {"type": "integer", "minimum": -5, "maximum": 100},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000},
    {"type": "string", "maxLength": 5},
    {"type": "string", "pattern": "^[a-c]{2,4}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"enum": ["red", "green", 3, None, {"a": [1]}]},
    {"const": {"fixed": True}},
    {"type": ["integer", "null"], "minimum": 1, "maximum": 9},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "boolean"}, NAME], "items": False, "minItems": 2},
    {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "null"}, "maxItems": 2}]},
    {"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 9}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 20}]},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {
        "type": "object",
        "properties": {"name": NAME, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2, "minProperties": 1},
    {
        "$defs": {"node": {"type": "object", "properties": {"n": {"$ref": "#/$defs/leaf"}}, "required": ["n"],
                           "additionalProperties": False},
                  "leaf": {"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0}, "maxItems": 3}},
        "$ref": "#/$defs/node",
    },
    {
        "title": "Pydantic",
        "type": "object",
        "properties": {
            "kind": {"enum": ["x", "y"], "title": "Kind", "type": "string"},
            "note": {"anyOf": [NAME, {"type": "null"}], "default": None, "description": "A note."},
        },
        "required": ["kind", "note"],
        "additionalProperties": False,
    },
    {"type": "object", "properties": {'é\n"': {"const": "ü😀"}}, "required": ['é\n"'], "additionalProperties": False},
]  # fmt: skip
UNSUPPORTED: list[Any] = [
    {"type": "array", "uniqueItems": True},
    {"not": {"type": "string"}},
    {"if": {}, "then": {}},
    {"$ref": "https://example.com/schema"},
    {"$ref": "#/$defs/missing"},
    {"type": "bogus"},
    {"type": "string", "pattern": "(?=a)b"},
    {"type": "string", "format": "no-such-format"},
    {"oneOf": [{"type": "number"}, {"type": "integer"}]},
    {"enum": []},
    {"items": [{"patternProperties": {f"^{number}$": {} for number in range(129)}}]},
    {"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}},
    True,
    [1],
    "text",
]


def schema(value: Any) -> JsonSchema:
    return JsonSchema(schema=msgspec.Raw(msgspec.json.encode(value)))


def request(grammar: Grammar | None, seed: int = 1, **settings: Any) -> ChatRequest:
    settings = {"max_tokens": 200, "temperature": 1.0} | settings
    return ChatRequest(prompt="The License", grammar=grammar, seed=seed, **settings)


async def answer(engine: TextEngine, request: ChatRequest) -> tuple[str, ChatChunk]:
    chunks = [chunk async for chunk in engine.generate(engine.prepare(request))]
    # Where a text is cut into chunks is a matter of time.
    return "".join(chunk.text for chunk in chunks), msgspec.structs.replace(chunks[-1], text="")


async def answers(engine: TextEngine, requests: list[ChatRequest]) -> list[tuple[str, ChatChunk]]:
    return list(await asyncio.gather(*(answer(engine, each) for each in requests)))


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"seed": 1}, {"seed": 2, "temperature": 2, "top_p": 0.9}])
async def test_random_model_gives_only_json_of_the_schema(text_engine: TextEngine, settings: dict[str, Any]) -> None:
    said = await answers(text_engine, [request(schema(each), **settings) for each in SCHEMAS])

    stopped = 0
    for each, (text, last) in zip(SCHEMAS, said, strict=True):
        if last.finish_reason == "stop":
            stopped += 1
            jsonschema.validate(json.loads(text), each, jsonschema.Draft202012Validator)
    # The rest writes one number until its tokens are used up.
    assert stopped >= len(SCHEMAS) - 2


@pytest.mark.parametrize("asked", [{"prompt": "The License"}, {"prompt": None, "messages": (Message(role="user"),)}])
async def test_text_begins_with_the_space_that_the_grammar_has(text_engine: TextEngine, asked: dict[str, Any]) -> None:
    wanted = msgspec.structs.replace(request(Choice(options=("  yes",))), **asked)

    text, _ = await answer(text_engine, wanted)

    assert text == "  yes"


async def test_json_object_gives_an_object(text_engine: TextEngine) -> None:
    said = await answers(text_engine, [request(JsonObject(), seed=seed) for seed in range(8)])

    assert all(text.startswith("{") for text, _ in said)
    stopped = [json.loads(text) for text, last in said if last.finish_reason == "stop"]
    assert all(isinstance(each, dict) for each in stopped)


async def test_rows_are_the_same_alone_and_beside_constrained_ones(text_engine: TextEngine) -> None:
    mixed = [request(schema(each), seed=seed) for seed, each in enumerate(SCHEMAS[:12])]
    mixed += [request(None, seed=3, max_tokens=40), request(None, temperature=0, max_tokens=60)]
    mixed += [request(None, seed=4, max_tokens=50, presence_penalty=1, logit_bias={7: 3.0})]
    alone = [await answer(text_engine, each) for each in mixed]

    together = await answers(text_engine, mixed)

    assert together == alone


async def test_penalties_and_bias_do_not_lead_out_of_the_grammar(text_engine: TextEngine) -> None:
    bias = dict.fromkeys(range(512), 100.0) | {1: -100.0}
    settings = {"logit_bias": bias, "repetition_penalty": 5, "presence_penalty": 2, "top_k": 3, "min_p": 0.2}

    said = await answers(text_engine, [request(schema(each), **settings) for each in SCHEMAS])

    assert "stop" in {last.finish_reason for _, last in said}
    for each, (text, last) in zip(SCHEMAS, said, strict=True):
        if last.finish_reason == "stop":
            jsonschema.validate(json.loads(text), each, jsonschema.Draft202012Validator)


async def test_max_tokens_inside_the_grammar_is_length(text_engine: TextEngine) -> None:
    text, last = await answer(text_engine, request(schema({"const": "a long text that takes more"}), max_tokens=3))

    assert '"a long text that takes more"'.startswith(text)
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert last.usage.completion_tokens == 3


async def test_stop_string_ends_a_constrained_text(text_engine: TextEngine) -> None:
    text, last = await answer(text_engine, request(schema({"const": "one two"}), stop=("two",)))

    assert (text, last.finish_reason) == ('"one ', "stop")


async def test_regex_choice_and_lark_hold(text_engine: TextEngine) -> None:
    options = ("yes", "no", 'é "quoted"\\😀', "new\nline")
    requests = [request(Choice(options=options), seed=seed) for seed in range(6)]
    requests += [request(Regex(pattern="[0-9]{3}-[a-f]{2}"))]
    requests += [request(Lark(source='start: "(" start ")" | "x"\n'), seed=5)]

    said = [text for text, last in await answers(text_engine, requests) if last.finish_reason == "stop"]

    assert len(said) >= 7
    assert set(said[:6]) <= set(options)
    assert said[6][3] == "-"
    assert len(said[6]) == 6


@pytest.mark.parametrize("value", UNSUPPORTED)
async def test_schema_that_cannot_be_honoured_is_refused(text_engine: TextEngine, value: Any) -> None:
    with pytest.raises(RefusedError) as refused:
        text_engine.prepare(request(schema(value)))

    assert refused.value.failure.code == "invalid_request"
    assert refused.value.failure.param == "grammar.schema"


@pytest.mark.parametrize(
    ("grammar", "param"),
    [
        (Regex(pattern="a("), "grammar.pattern"),
        (Lark(source="start: nothing"), "grammar.source"),
        (Lark(source=""), "grammar.source"),
    ],
)
async def test_grammar_that_is_none_is_refused(text_engine: TextEngine, grammar: Grammar, param: str) -> None:
    with pytest.raises(RefusedError) as refused:
        text_engine.prepare(request(grammar))

    assert refused.value.failure.param == param


async def test_grammar_that_gets_too_complex_fails_alone(text_engine: TextEngine) -> None:
    free = request(None, temperature=0, max_tokens=60)
    expected = await answer(text_engine, free)
    source = LLMatcher.grammar_from_lark('start: many "!"\nmany: "a" | many many\n')
    limits = LLParserLimits(max_items_in_row=20)
    tokens = text_engine._loaded().token_bytes
    assert tokens is not None
    wild = LLMatcher(tokens, source, log_level=0, limits=limits)
    endless = request(None, logit_bias={tokens.tokenize_str("!")[0]: -100.0})
    work = msgspec.structs.replace(text_engine.prepare(endless), grammar=wild)

    async with asyncio.TaskGroup() as group:
        beside = group.create_task(answer(text_engine, free))
        ended = group.create_task(_failure(text_engine, work))

    assert beside.result() == expected
    assert ended.result().code == "invalid_request"
    assert "could not be followed" in str(ended.result())


async def test_equal_grammars_are_compiled_once(text_engine: TextEngine) -> None:
    first, second = (text_engine.prepare(request(schema({"type": "boolean"}))) for _ in range(2))

    assert first.grammar is second.grammar


async def test_grammars_that_are_kept_are_bounded_by_their_size(text_engine: TextEngine) -> None:
    grammars = Grammars(text_engine._loaded().token_bytes)
    compiled = [grammars.compile(Choice(options=(f"{number}" * 200_000,))) for number in range(8)]

    assert len(grammars._compiled) == 5
    assert grammars.compile(Choice(options=("7" * 200_000,))) is compiled[-1]


async def _failure(engine: TextEngine, work: TextWork) -> RefusedError:
    with pytest.raises(RefusedError) as failed:
        async for _ in engine.generate(work):
            pass
    return failed.value
