"""Conversations and answers in Anthropic's shape, without a server."""

import json
from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from bus.calls import whole_calls
from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, Message, ToolCall, ToolCallDelta, Usage
from http_edge.anthropic_answer import content
from http_edge.anthropic_messages import TextBlock, Turn, conversation
from http_edge.anthropic_stream import AnswerFrames
from http_edge.generation import Generated, wire_usage

USAGE = Usage(prompt_tokens=9, completion_tokens=7, cached_tokens=4)
HEAD = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
WORDS = st.text(min_size=1, max_size=4)
ARGUMENTS = st.dictionaries(WORDS, WORDS, max_size=2).map(json.dumps)

event = TypeAdapter[Any](RawMessageStreamEvent)


def turns(*said: dict[str, Any]) -> tuple[Turn, ...]:
    return msgspec.json.decode(json.dumps(said), type=tuple[Turn, ...])


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": blocks}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def result(call: str, said: object, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": said} | more


def pieces_of_call(index: int, arguments: str, cut: int) -> list[ChatChunk]:
    first = ToolCallDelta(index=index, id=f"call-{index}", name="now", arguments=arguments[:cut])
    rest = ToolCallDelta(index=index, arguments=arguments[cut:])
    return [ChatChunk(tool_calls=(first,)), ChatChunk(tool_calls=(rest,))]


@given(st.lists(WORDS), st.lists(WORDS), st.lists(st.tuples(ARGUMENTS, st.integers(0, 9))))
def test_stream_adds_up_to_the_whole_answer(
    thoughts: list[str], words: list[str], calls: list[tuple[str, int]]
) -> None:
    chunks = [ChatChunk(reasoning=each) for each in thoughts] + [ChatChunk(text=each) for each in words]
    chunks += [piece for index, call in enumerate(calls) for piece in pieces_of_call(index, *call)]
    last = ChatChunk(finish_reason="stop", usage=USAGE)
    whole = Generated(
        text="".join(words),
        reasoning="".join(thoughts),
        tool_calls=whole_calls(delta for chunk in chunks for delta in chunk.tool_calls),
        finish_reason="stop",
        usage=wire_usage(last),
    )
    encode = AnswerFrames(HEAD, shows_thoughts=True)

    frames = b"".join(encode(chunk) for chunk in [*chunks, last]).decode().split("\n\n")[:-1]

    message, buffers = None, dict[int, bytes]()
    for frame in frames:
        data = frame.split("\ndata: ")[1]
        message = accumulate_event(event=event.validate_json(data), current_snapshot=message, json_bufs=buffers)
    assert message is not None
    told = [block.model_dump(exclude_none=True) for block in message.content]
    assert told == msgspec.json.decode(msgspec.json.encode(content(whole, shows_thoughts=True)))
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (5, 4, 7)


def test_results_of_tools_and_texts_keep_their_order() -> None:
    said = turns(
        user(text("one"), text("two")),
        {"role": "user", "content": "three"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "redacted_thinking", "data": "?"},
                text("I look."),
                {"type": "tool_use", "id": "a", "name": "now", "input": {}},
            ],
        },
        user(result("a", [text("1"), text("2")]), result("b", "no", is_error=True), text("go on")),
        {"role": "system", "content": "be brief"},
        user(text("four"), result("c", "5"), text("six")),
    )

    call = ToolCall(id="a", name="now", arguments="{}")
    assert conversation((TextBlock(text="x"), TextBlock(text="y")), said) == (
        Message(role="system", content="x\ny"),
        Message(role="user", content="one\ntwo\nthree"),
        Message(role="assistant", content="I look.", reasoning_content="Hm.", tool_calls=(call,)),
        Message(role="tool", tool_call_id="a", content="1\n2"),
        Message(role="tool", tool_call_id="b", content="Error: no"),
        Message(role="user", content="go on"),
        Message(role="system", content="be brief"),
        Message(role="user", content="four"),
        Message(role="tool", tool_call_id="c", content="5"),
        Message(role="user", content="six"),
    )


@pytest.mark.parametrize(
    ("said", "param"),
    [
        (user(text("a") | {"citations": [{}]}), "messages[0].content[0].citations"),
        (user(result("a", [text("a") | {"citations": [{}]}])), "messages[0].content[0].content[0].citations"),
        (user(result("a", "", toolset_name="t")), "messages[0].content[0].toolset_name"),
        ({"role": "assistant", "content": "so"}, "messages"),
    ],
)
def test_what_has_no_form_on_the_bus_is_refused_by_name(said: dict[str, Any], param: str) -> None:
    with pytest.raises(RefusedError) as refused:
        conversation(None, turns(said))

    assert refused.value.failure.param == param
