"""What a model writes, in its parts: without a model, on the marks of real tokenizers."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLTokenizer
from mlx_lm import tokenizer_utils

from actors.engines.text_dialect import Calling, Dialect
from actors.engines.text_grammar import grammar_tokenizer
from actors.engines.text_logprobs import LogprobLine, Scores
from actors.engines.text_split import FormSplitter, Splitter
from bus.calls import whole_calls
from bus.messages.chat import ChatChunk, TokenLogprob
from tests.support import tiny_models

TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
CALLING = Calling(tools=[TOOL])
SINGLE = Calling(tools=[TOOL], is_single=True)
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
OTHER = '<tool_call>{"name": "g", "arguments": {"b": "ü"}, "id": "own"}</tool_call>'
F, G = ("f", '{"a": 1}'), ("g", '{"b": "ü"}')

Parts = tuple[str, str, list[tuple[str, str]]]


@pytest.fixture(scope="module")
def dialect(tiny_thinker: Path) -> Dialect:
    return Dialect(tokenizer_utils.load(tiny_thinker))


@pytest.fixture(scope="module")
def letters(tiny_thinker: Path) -> LLTokenizer:
    tokens = grammar_tokenizer(tokenizer_utils.load(tiny_thinker), tiny_models.VOCAB_SIZE)
    assert tokens is not None
    return tokens


def said(splitter: Splitter | FormSplitter, pieces: list[str], *, was_cut: bool = False) -> Parts:
    """Return content, reasoning and calls."""
    chunks: list[ChatChunk] = []
    for piece in pieces:
        chunks.append(splitter.feed(piece))
        if splitter.parts.is_stopped:
            break
    else:
        chunks.append(splitter.flush(was_cut=was_cut))
    calls = whole_calls(delta for chunk in chunks for delta in chunk.tool_calls)
    assert splitter.parts.has_called == bool(calls)
    return (
        "".join(chunk.text for chunk in chunks),
        "".join(chunk.reasoning for chunk in chunks),
        [(call.name, call.arguments) for call in calls],
    )


CASES: list[tuple[str, str, dict[str, Any], Parts]] = [
    ("plain", " Hello <b>there</b>\n", {}, (" Hello <b>there</b>\n", "", [])),
    ("thought", "<think>\nHm.\n\nSo.\n</think>\n\nHello \n", {}, ("Hello \n", "Hm.\n\nSo.", [])),
    ("opened", "Hm.\n</think>\n\nHello", {"opening": "reasoning"}, ("Hello", "Hm.", [])),
    ("thought cut", "<think>\nHm. So \n", {"was_cut": True}, ("", "Hm. So \n", [])),
    ("one call", f"{CALL}\n", {}, ("", "", [F])),
    ("space around", f" \n<think> \nHm. </think> \n{CALL} \n{OTHER} \n", {}, ("", "Hm.", [F, G])),
    ("space after call", f"{CALL} \n Hello \n", {}, ("Hello \n", "", [F])),
    ("two calls", CALL + OTHER, {}, ("", "", [F, G])),
    ("two calls apart", f"Let me see.\n\n{CALL}\n{OTHER}\n", {}, ("Let me see.", "", [F, G])),
    ("all", f"<think>Hm.</think>\nYes: {CALL}\n and {OTHER} so", {}, ("Yes: \n and  so", "Hm.", [F, G])),
    ("call in thought", f"<think>Hm. {CALL}", {}, ("", "Hm.", [F])),
    ("call cut", f'{CALL}\n<tool_call>\n{{"name": "g"', {"was_cut": True}, ('<tool_call>\n{"name": "g"', "", [F])),
    ("call cut at its end", CALL[:-5], {"was_cut": True}, (CALL[:-5], "", [])),
    ("call ended without a mark", CALL.removesuffix("\n</tool_call>"), {}, ("", "", [F])),
    ("mark cut", "Well <tool_ca", {"was_cut": True}, ("Well <tool_ca", "", [])),
    ("malformed", f"So \n<tool_call>f(1)</tool_call>\n{OTHER}", {}, ("So \n<tool_call>f(1)</tool_call>", "", [G])),
    ("single", CALL + OTHER, {"calling": SINGLE}, ("", "", [F])),
    ("no tools", f"<think>Hm.</think> Say {CALL}", {"calling": None}, (f"Say {CALL}", "Hm.", [])),
    ("stop", f"<think>a.b</think>Go. {CALL}", {"stop": (".",)}, ("Go", "a.b", [])),
    ("stop in call", f"{CALL} x{OTHER}", {"stop": ("arg", "l>")}, ("x", "", [F, G])),
    ("stop half before call", f"ab{CALL}c", {"stop": ("bc",)}, ("abc", "", [F])),
    ("stop after space", f"Go \n. {CALL}", {"stop": (".",)}, ("Go \n", "", [])),
    ("prompt", f"<think>Hm.</think> {CALL}", {"opening": None}, (f"<think>Hm.</think> {CALL}", "", [])),
]


def splitter_of(dialect: Dialect, how: dict[str, Any]) -> Splitter:
    settings = {"stop": (), "opening": "normal", "calling": CALLING} | how
    return Splitter(dialect, settings["stop"], settings["opening"], settings["calling"])


@pytest.mark.parametrize(("text", "how", "parts"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_every_cut_of_a_text_in_two_or_into_letters_gives_the_same_parts(
    dialect: Dialect, text: str, how: dict[str, Any], parts: Parts
) -> None:
    cuts = [[text[:at], text[at:]] for at in range(len(text) + 1)]

    for pieces in ([text], list(text), *cuts):
        assert said(splitter_of(dialect, how), pieces, was_cut=how.get("was_cut", False)) == parts


MARKED = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<tool_call>", "</tool_call>", CALL, OTHER, " ", "\n", "a", "ab", "<", "é"]
    ),
    max_size=12,
).map("".join)


@given(
    text=MARKED,
    at=st.lists(st.integers(0, 200), max_size=10),
    stop=st.lists(st.sampled_from(["b", "a<", " a", "call>"]), max_size=2).map(tuple),
    opening=st.sampled_from(["normal", "reasoning"]),
    calling=st.sampled_from([None, CALLING, SINGLE]),
    was_cut=st.booleans(),
)
def test_pieces_of_any_size_give_the_same_parts(dialect: Dialect, **drawn: Any) -> None:
    text, was_cut = drawn["text"], drawn["was_cut"]
    pieces = [text[start:end] for start, end in pairwise([0, *sorted(drawn["at"]), len(text)])]

    assert said(splitter_of(dialect, drawn), pieces, was_cut=was_cut) == said(
        splitter_of(dialect, drawn), [text], was_cut=was_cut
    )


FORMED: list[tuple[str, str, dict[str, Any], Parts]] = [
    ("text", ' {"a": "<think>"} \n', {}, (' {"a": "<think>"} \n', "", [])),
    ("opened", f"Hm.\n{CALL}</think>\n\n<think>", {"thought": "open"}, ("<think>", f"Hm.\n{CALL}", [])),
    ("thought", "\n<think>Hm.</think>\n a</think>", {"thought": "possible"}, ("a</think>", "Hm.", [])),
    ("no thought", " <thin", {"thought": "possible"}, (" <thin", "", [])),
    ("thought cut", "Hm. </thi", {"thought": "open", "was_cut": True}, ("", "Hm. </thi", [])),
    ("calls", f"Hm.</think>\n{CALL}\n{OTHER}", {"thought": "open", "calling": CALLING}, ("", "Hm.", [F, G])),
    ("single", CALL + OTHER, {"calling": SINGLE}, ("", "", [F])),
    ("text instead", "Say <tool_call>", {"calling": CALLING}, ("Say <tool_call>", "", [])),
    (
        "mark in a call",
        '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>',
        {"calling": CALLING},
        ("", "", [("f", '{"a": "</tool_call>"}')]),
    ),
    ("call cut", f"{CALL}\n{CALL[:-3]}", {"calling": CALLING, "was_cut": True}, (CALL[:-3], "", [F])),
    ("stop", "a.b</think>Go.", {"thought": "open", "stop": (".",)}, ("Go", "a.b", [])),
]


def form_splitter_of(dialect: Dialect, how: dict[str, Any]) -> FormSplitter:
    settings = {"stop": (), "thought": "none", "calling": None} | how
    return FormSplitter(dialect, settings["stop"], settings["thought"], settings["calling"])


@pytest.mark.parametrize(("text", "how", "parts"), [case[1:] for case in FORMED], ids=[case[0] for case in FORMED])
def test_every_cut_of_a_text_that_is_kept_to_a_form_gives_the_same_parts(
    dialect: Dialect, text: str, how: dict[str, Any], parts: Parts
) -> None:
    cuts = [[text[:at], text[at:]] for at in range(len(text) + 1)]

    for pieces in ([text], list(text), *cuts):
        assert said(form_splitter_of(dialect, how), pieces, was_cut=how.get("was_cut", False)) == parts


@given(
    text=MARKED,
    at=st.lists(st.integers(0, 200), max_size=10),
    stop=st.lists(st.sampled_from(["b", "a<", " a", "call>"]), max_size=2).map(tuple),
    thought=st.sampled_from(["none", "possible", "open"]),
    calling=st.sampled_from([None, CALLING, SINGLE]),
    was_cut=st.booleans(),
)
def test_pieces_of_any_size_give_the_same_parts_of_a_form(dialect: Dialect, **drawn: Any) -> None:
    text, was_cut = drawn["text"], drawn["was_cut"]
    pieces = [text[start:end] for start, end in pairwise([0, *sorted(drawn["at"]), len(text)])]

    assert said(form_splitter_of(dialect, drawn), pieces, was_cut=was_cut) == said(
        form_splitter_of(dialect, drawn), [text], was_cut=was_cut
    )


@given(
    text=MARKED.map(lambda text: text.encode("ascii", "replace").decode()),
    stop=st.lists(st.sampled_from(["b", "a<", " a", "call>"]), max_size=2).map(tuple),
    opening=st.sampled_from(["normal", "reasoning"]),
    thought=st.sampled_from(["none", "possible", "open", None]),
    calling=st.sampled_from([None, CALLING, SINGLE]),
    was_cut=st.booleans(),
)
def test_letters_that_are_told_with_their_logprobs_are_the_content(
    dialect: Dialect, letters: LLTokenizer, **drawn: Any
) -> None:
    splitter = splitter_of(dialect, drawn) if drawn["thought"] is None else form_splitter_of(dialect, drawn)
    line = LogprobLine(letters)
    content, told = "", list[TokenLogprob]()
    for letter in drawn["text"]:
        line.hear(letters.tokenize_str(letter)[0], Scores(0.0, ()), letter)
        new = splitter.feed(letter).text
        line.follow(splitter.track)
        content += new
        told += line.tell(new, is_all=False)
        if splitter.parts.is_stopped:
            break
    else:
        rest = splitter.flush(was_cut=drawn["was_cut"]).text
        line.follow(splitter.track, 0)
        content += rest
        told += line.tell(rest, is_all=True)

    assert [(each.token.decode(), each.offset) for each in told] == [(each, at) for at, each in enumerate(content)]


def test_calls_are_numbered_and_keep_the_models_id_or_get_one(dialect: Dialect) -> None:
    splitter = Splitter(dialect, (), "normal", CALLING)

    first, second = splitter.feed(CALL).tool_calls + splitter.feed(OTHER).tool_calls

    assert (first.index, second.index, second.id) == (0, 1, "own")
    assert first.id is not None
    assert (len(first.id), first.id.isalnum()) == (9, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"name": 1}',
        '{"name": ""}',
        '{"name": "f", "arguments": 1}',
        '{"name": "f", "arguments": "1"}',
        '{"name": "f", "arguments": "{"}',
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": {"a": "\\ud800"}}',
        '{"name": "f\\ud800", "arguments": {}}',
        "[" * 100_000,
    ],
)
def test_text_that_is_no_call_is_none(dialect: Dialect, text: str) -> None:
    assert dialect.calls(text, []) == []


@pytest.mark.parametrize("arguments", ["", ', "arguments": null', ', "arguments": {}', ', "arguments": "{}"'])
def test_call_without_arguments_has_an_empty_object(dialect: Dialect, arguments: str) -> None:
    (call,) = dialect.calls(f'{{"name": "f"{arguments}}}', [])

    assert call.arguments == "{}"


FORMS = {
    "mistral": ("[TOOL_CALLS]", '[TOOL_CALLS]f[ARGS]{"a": 1}'),
    "pythonic": ("<|tool_call_start|>", "<|tool_call_start|>[f(a=1)]<|tool_call_end|>"),
    "qwen3_coder": (
        "<tool_call>\n<function=",
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
    ),
    "glm47": ("<arg_key>", "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>"),
    "minimax_m2": (
        "<minimax:tool_call>",
        '<minimax:tool_call><invoke name="f"><parameter name="a">1</parameter></invoke></minimax:tool_call>',
    ),
}


@pytest.mark.parametrize(("mark", "text"), FORMS.values(), ids=FORMS)
def test_other_families_calls_are_read_and_cut_ones_are_not(
    tiny_llama: Path, tmp_path: Path, mark: str, text: str
) -> None:
    folder = tiny_models.changed(tiny_llama, tmp_path / "model", tokenizer_config={"chat_template": mark})
    dialect = Dialect(tokenizer_utils.load(folder))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    function = {"name": "f", "description": "", "parameters": schema}
    calling = Calling(tools=[{"type": "function", "function": function}])

    content, _, calls = said(Splitter(dialect, (), "normal", calling), list(f"So: {text}"))
    cut = said(Splitter(dialect, (), "normal", calling), list(text[:-1]), was_cut=True)

    assert (content, [(name, json.loads(arguments)) for name, arguments in calls]) == ("So:", [("f", {"a": 1})])
    assert cut == (text[:-1], "", [])
