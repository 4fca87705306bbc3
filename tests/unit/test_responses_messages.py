import json
from functools import partial
from typing import Any

import msgspec
import pytest

from bus.errors import RefusedError
from bus.messages.chat import Message, ToolCall
from http_edge.responses.items import items
from http_edge.responses.messages import messages

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
TOOL_CALL = ToolCall(id="c", name="f", arguments="{}")
THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
PART = {"type": "input_text", "text": "a"}
turn = partial(Message, role="assistant")
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "1"}


def raw(*said: Any) -> tuple[msgspec.Raw, ...]:
    return tuple(msgspec.Raw(json.dumps(each).encode()) for each in said)


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            [THOUGHT, said("a"), CALL, CALL],
            [turn(reasoning_content="Hm.", content="a", tool_calls=(TOOL_CALL, TOOL_CALL))],
        ),
        ([CALL, said("a")], [turn(tool_calls=(TOOL_CALL,)), turn(content="a")]),
        ([said("a"), said("b")], [turn(content="a"), turn(content="b")]),
        ([said("a"), THOUGHT, CALL], [turn(content="a"), turn(reasoning_content="Hm.", tool_calls=(TOOL_CALL,))]),
        (
            [CALL, OUTPUT, CALL],
            [
                turn(tool_calls=(TOOL_CALL,)),
                Message(role="tool", content="1", tool_call_id="c"),
                turn(tool_calls=(TOOL_CALL,)),
            ],
        ),
        ([{"role": "developer", "content": [PART, PART]}], [Message(role="developer", content="aa")]),
    ],
)
def test_items_of_one_turn_become_one_message(given: list[Any], expected: list[Message]) -> None:
    assert messages(None, items(raw(*given))) == tuple(expected)


def test_instructions_come_first() -> None:
    assert messages("Be brief.", items("Hi")) == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hi"),
    )


def test_items_get_what_they_lack_and_keep_what_they_have() -> None:
    easy, called = items(raw({"role": "user", "content": "Hi"}, CALL | {"id": "fc_mine", "status": "incomplete"}))

    assert easy.id is not None
    assert easy.id.startswith("msg_")
    assert easy.status == "completed"
    assert (called.id, called.status) == ("fc_mine", "incomplete")


def test_item_at_fault_is_named() -> None:
    with pytest.raises(RefusedError) as refused:
        items(raw(CALL, CALL | {"arguments": 1}))

    assert refused.value.failure.param == "input[1].arguments"
