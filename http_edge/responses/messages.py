"""Turns the items of a conversation into the messages that a model takes."""

from collections.abc import Iterable
from typing import assert_never

from bus.messages.chat import Message, ToolCall
from http_edge.responses.items import FunctionCall, FunctionCallOutput, Item, MessageItem, Reasoning


def messages(instructions: str | None, said: Iterable[Item]) -> tuple[Message, ...]:
    """Return the conversation, `instructions` first.

    What the model thought, said and called in one go is several items, but one message.
    """
    turns = [Message(role="system", content=instructions)] if instructions else []
    for item in said:
        turn = _turn(item)
        if turns and _continues(turns[-1], turn):
            turns[-1] = _joined(turns[-1], turn)
        else:
            turns.append(turn)
    return tuple(turns)


def _turn(item: Item) -> Message:
    match item:
        case MessageItem():
            return Message(role=item.role, content=item.text)
        case FunctionCall():
            call = ToolCall(id=item.call_id, name=item.name, arguments=item.arguments)
            return Message(role="assistant", tool_calls=(call,))
        case FunctionCallOutput():
            return Message(role="tool", content=item.text, tool_call_id=item.call_id)
        case Reasoning():
            return Message(role="assistant", reasoning_content="".join(part.text for part in item.content or ()))
        case _:
            assert_never(item)


def _continues(before: Message, turn: Message) -> bool:
    """Return whether `turn` goes on with the message before it: thoughts come first, then content, then calls."""
    if before.role != "assistant" or turn.role != "assistant" or turn.reasoning_content:
        return False
    return bool(turn.tool_calls) or not (before.content or before.tool_calls)


def _joined(before: Message, turn: Message) -> Message:
    return Message(
        role="assistant",
        content=before.content or turn.content,
        reasoning_content=before.reasoning_content,
        tool_calls=before.tool_calls + turn.tool_calls,
    )
