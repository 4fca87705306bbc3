"""From bytes to messages: the field at fault has a name."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from bus.decoding import decode
from bus.errors import RefusedError
from bus.messages.batches import BatchId, BlobName
from bus.messages.chat import ChatRequest
from bus.messages.files import FileId
from bus.messages.jobs import JobId
from bus.messages.responses import ResponseId
from bus.messages.subscriptions import SubscriptionName

DECODER = msgspec.json.Decoder(ChatRequest)
DEEP = b"[" * 200 + b"]" * 200


@pytest.mark.parametrize(
    ("payload", "code", "param"),
    [
        (b'{"temperature": 3}', "invalid_request", "temperature"),
        (b'{"temperature": "hot"}', "invalid_request", "temperature"),
        (b'{"repetition_penalty": 1e-9}', "invalid_request", "repetition_penalty"),
        (b'{"messages": {}}', "invalid_request", "messages"),
        (b'{"messages": [{"role": "user"}, {"role": "king"}]}', "invalid_request", "messages[1].role"),
        (b'{"messages": [{"content": "x"}]}', "invalid_request", "messages[0].role"),
        (b'{"messages": [{"role": "user", "mood": 1}]}', "unsupported_parameter", "messages[0].mood"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "invalid_request",
            "messages[0].content[0].type",
        ),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}',
            "invalid_request",
            "messages[0].content[0].text",
        ),
        (b'{"stop": ["a", ""]}', "invalid_request", "stop[1]"),
        (b'{"stop": ["a", "b", "c", "d", "e"]}', "invalid_request", "stop"),
        (b'{"logit_bias": {"x": 1}}', "invalid_request", "logit_bias"),
        (b'{"logit_bias": {"5": 101}}', "invalid_request", "logit_bias[...]"),
        (b'{"n": 2}', "unsupported_parameter", "n"),
        (b'{"top p": 2}', "unsupported_parameter", "top p"),
        (b"[]", "invalid_request", None),
        (b"", "invalid_request", None),
        (b"{", "invalid_request", None),
        (b'"\xff"', "invalid_request", None),
        (b'{"prompt": "\xff"}', "invalid_request", None),
        (b'{"grammar": {"type": "json_schema", "schema": "\xff"}}', "invalid_request", None),
        (b'{"prompt": "\\ud800"}', "invalid_request", None),
        (b'{"prompt": ' + b"[" * 100_000, "invalid_request", "prompt[0]"),
        (b'{"grammar": {"type": "json_schema", "schema": %b}}' % DEEP, "invalid_request", "grammar"),
        (b'{"prompt": "x", "tools": [{"name": "f", "parameters": {"a": %b}}]}' % DEEP, "invalid_request", "tools"),
    ],
)
def test_wrong_message_is_refused_by_the_name_of_its_field(payload: bytes, code: str, param: str | None) -> None:
    with pytest.raises(RefusedError) as refused:
        decode(DECODER, payload)

    assert refused.value.code == code
    assert refused.value.failure.param == param


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"messages": [{"role": "king"}]}', "; it may be 'assistant', 'developer', 'system', 'tool', 'user' (in"),
        (b'{"messages": [{"role": "user", "content": [{"type": "x"}]}]}', "'x'; it may be 'text' (in"),
        (b'{"tools": [{"name": "f", "parameters": {"a": %b}}]}' % DEEP, "nested more than 200 deep"),
        (b'{"prompt": "\\ud83d\\ude00 \\ud800"}', "; \\ud800 is half a character."),
        (b'{"prompt": "\\ud83d\\ude00"', "Input data was truncated."),
    ],
)
def test_refusal_says_what_is_allowed(payload: bytes, said: str) -> None:
    with pytest.raises(RefusedError) as refused:
        decode(DECODER, payload)

    assert said in refused.value.failure.message


@pytest.mark.parametrize("prompt", [[7] * 500, "[" * 500 + '"{' * 500 + "\\"])
def test_brackets_that_do_not_nest_are_no_harm(prompt: str | list[int]) -> None:
    payload = msgspec.json.encode({"prompt": prompt, "stop": ["["] * 4})

    assert decode(DECODER, payload).stop == ("[",) * 4


@given(some.binary() | some.text().map(str.encode))
def test_any_bytes_are_a_message_or_a_refusal(payload: bytes) -> None:
    try:
        assert isinstance(decode(DECODER, payload), ChatRequest)
    except RefusedError as error:
        assert error.code in {"invalid_request", "unsupported_parameter"}


@given(some.text())
def test_unknown_field_of_any_name_is_refused(name: str) -> None:
    payload = msgspec.json.encode({f"x{name}": 1})

    with pytest.raises(RefusedError) as refused:
        decode(DECODER, payload)

    assert refused.value.code == "unsupported_parameter"


def test_very_long_name_is_cut_so_that_the_refusal_arrives() -> None:
    payload = msgspec.json.encode({"x" * 10**6: 1})

    with pytest.raises(RefusedError) as refused:
        decode(DECODER, payload)

    assert len(msgspec.json.encode(refused.value.failure)) < 10_000


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (BatchId, "batch_1"),
        (BlobName, "0" * 64),
        (FileId, "file-1"),
        (JobId, "job-1"),
        (ResponseId, "resp_1"),
        (SubscriptionName, "lab"),
    ],
)
def test_name_with_a_line_break_at_its_end_is_none(kind: object, name: str) -> None:
    assert msgspec.convert(name, kind) == name

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name + "\n", kind)
