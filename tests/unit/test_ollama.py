"""Ollama's lines and formats, without a server."""

import json
from typing import Any

import pytest
from msgspec import Raw

from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, JsonObject, JsonSchema, ToolCallDelta, Usage
from http_edge.ollama import naming_fields
from http_edge.ollama_lines import Lines
from http_edge.ollama_options import grammar, seconds


def tell(text: str, reasoning: str, calls: Any) -> dict[str, Any]:
    return {"said": [text, reasoning, [(each.id, json.loads(bytes(each.function.arguments))) for each in calls]]}


def test_calls_are_one_line_however_they_are_written_and_come_before_what_follows_them() -> None:
    lines = Lines("m", tell)
    pieces = [
        ToolCallDelta(index=0, id="a", name="f", arguments='{"x":\n'),
        ToolCallDelta(index=0, arguments=" 1}"),
        ToolCallDelta(index=1, id="b", name="g"),
    ]

    told = [lines(ChatChunk(tool_calls=(piece,))) for piece in pieces]
    after = lines(ChatChunk(text="so"))
    end = lines(ChatChunk(finish_reason="tool_calls", usage=Usage(prompt_tokens=1, completion_tokens=2)))

    assert told == [b"", b"", b""]
    calls, text, last = (json.loads(line) for line in (after + end).splitlines())
    assert calls["said"] == ["", "", [["a", {"x": 1}], ["b", {}]]]
    assert text["said"] == ["so", "", []]
    assert (last["said"], last["done"]) == (["", "", []], True)


@pytest.mark.parametrize(
    ("said", "kept_to"),
    [
        (b"", None),
        (b"null", None),
        (b'""', None),
        (b'"json"', JsonObject()),
        (b'{"type": "object"}', JsonSchema(schema=Raw(b'{"type": "object"}'))),
    ],
)
def test_format_becomes_a_grammar(said: bytes, kept_to: Any) -> None:
    assert grammar(Raw(said)) == kept_to


@pytest.mark.parametrize("said", [b'"xml"', b"1", b"[]", b"true"])
def test_format_of_another_kind_is_refused(said: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        grammar(Raw(said))

    assert refused.value.failure.param == "format"


@pytest.mark.parametrize(
    ("said", "length"),
    [
        (None, None),
        (0, 0),
        (-1, -1),
        (2.5, 2.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("+2s", 2),
        ("-1m", -60),
        ("0", 0),
    ],
)
def test_keep_alive_is_a_number_of_seconds_or_a_duration(said: float | str | None, length: float | None) -> None:
    assert seconds(said) == length


@pytest.mark.parametrize("said", ["", "5", "-1", "m", "5 m", "for ever", "5m!", "1d", "٣m", "9" * 400 + "h"])
def test_keep_alive_of_another_form_is_refused(said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        seconds(said)

    assert refused.value.failure.param == "keep_alive"


@pytest.mark.parametrize(
    ("param", "message", "theirs", "told"),
    [
        ("stop[0]", "Too short (in 'stop[0]').", "options.stop[0]", "Too short (in 'options.stop[0]')."),
        ("messages", "Your messages resulted in 9 tokens.", "prompt", "Your prompt resulted in 9 tokens."),
        ("tools", "This model has no tools.", "tools", "This model has no tools."),
        (None, "No.", None, "No."),
    ],
)
def test_fields_are_told_by_ollamas_names(param: str | None, message: str, theirs: str | None, told: str) -> None:
    with pytest.raises(RefusedError) as refused, naming_fields({"messages": "prompt"}):
        raise RefusedError("invalid_request", message, param=param)

    assert (refused.value.failure.param, str(refused.value)) == (theirs, told)
