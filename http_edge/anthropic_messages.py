"""Conversations as Anthropic has them: turns of content blocks, and the system prompt beside them."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from bus.errors import RefusedError
from bus.messages.chat import Message, ToolCall
from http_edge.generation import refuse_unsupported

# Not implemented: refused, unless they say what happens anyway. The clients send back all keys of what they were told.
_NEUTRAL_IN_TEXT: dict[str, tuple[object, ...]] = {"citations": ([],)}
_NEUTRAL_IN_TOOL_USE: dict[str, tuple[object, ...]] = {"caller": ({"type": "direct"},), "toolset_name": ()}
_NEUTRAL_IN_TOOL_RESULT: dict[str, tuple[object, ...]] = {"toolset_name": ()}


class TextBlock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A text. Blocks of one turn are lines of one text for the model."""

    text: str
    citations: Any = None
    cache_control: Raw = Raw()


class ThinkingBlock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="thinking"):
    """What the model thought, sent back. There is no signature to look at: ours are empty."""

    thinking: str
    signature: str = ""


class RedactedThinkingBlock(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="redacted_thinking"
):
    """What another provider's model thought, which only that provider can read."""

    data: Raw = Raw()


class ToolUseBlock(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_use"):
    """A call that the model made."""

    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None
    toolset_name: Any = None
    cache_control: Raw = Raw()


class ToolResultBlock(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_result"
):
    """What a tool answered, or why it failed."""

    tool_use_id: str
    content: str | tuple[TextBlock, ...] = ""
    is_error: bool | None = None
    toolset_name: Any = None
    cache_control: Raw = Raw()


Block = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock


class UserTurn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="user"):
    """What the user says, and what the tools answer."""

    content: str | tuple[TextBlock | ToolResultBlock, ...]


class AssistantTurn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="assistant"):
    """What the model said."""

    content: str | tuple[TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, ...]


class SystemTurn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="role", tag="system"):
    """An instruction in the middle of a conversation."""

    content: str | tuple[TextBlock, ...]


Turn = UserTurn | AssistantTurn | SystemTurn


def conversation(system: str | tuple[TextBlock, ...] | None, turns: tuple[Turn, ...]) -> tuple[Message, ...]:
    """Return the messages for a `ChatRequest`, in the order in which they were said.

    Turns of one role in a row are one turn. Raises `RefusedError` on what is not supported, and on a last turn
    of the assistant, which would have to be continued.
    """
    _check(system or (), "system")
    for index, turn in enumerate(turns):
        _check(turn.content, f"messages[{index}].content")
    if isinstance(turns[-1], AssistantTurn):
        raise RefusedError(
            "unsupported_parameter",
            "Continuing a turn of the assistant (prefill) is not supported; the last turn must be the user's.",
            param="messages",
        )
    messages = [Message(role="system", content=_text(system))] if system else []
    for kind, group in groupby(turns, type):
        blocks = [block for turn in group for block in _blocks(turn.content)]
        if kind is AssistantTurn:
            messages.append(_said(blocks))
        else:
            messages += _heard(blocks, "system" if kind is SystemTurn else "user")
    return tuple(messages)


def _check(content: str | Iterable[Block], where: str) -> None:
    for index, block in enumerate(_blocks(content)):
        at = f"{where}[{index}]."
        match block:
            case TextBlock():
                refuse_unsupported(block, _NEUTRAL_IN_TEXT, at)
            case ToolUseBlock():
                refuse_unsupported(block, _NEUTRAL_IN_TOOL_USE, at)
            case ToolResultBlock():
                refuse_unsupported(block, _NEUTRAL_IN_TOOL_RESULT, at)
                _check(block.content, f"{at}content")
            case _:
                pass


def _said(blocks: list[Block]) -> Message:
    """Return one message of the assistant. Where text stood between calls is lost: a message has no form for it."""
    return Message(
        role="assistant",
        content=_text(blocks),
        reasoning_content="\n".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock)),
        tool_calls=tuple(
            ToolCall(id=block.id, name=block.name, arguments=msgspec.json.encode(block.input).decode())
            for block in blocks
            if isinstance(block, ToolUseBlock)
        ),
    )


def _heard(blocks: list[Block], role: Literal["user", "system"]) -> Iterator[Message]:
    """Yield the results of tools one by one, and texts in a row as one message."""
    for kind, group in groupby(blocks, type):
        if kind is ToolResultBlock:
            yield from (_result(block) for block in group if isinstance(block, ToolResultBlock))
        else:
            yield Message(role=role, content=_text(group))


def _result(block: ToolResultBlock) -> Message:
    # Chat templates have no place for failure, so it is said in words.
    failed = "Error: " if block.is_error else ""
    return Message(role="tool", tool_call_id=block.tool_use_id, content=failed + _text(block.content))


def _blocks(content: str | Iterable[Block]) -> Iterable[Block]:
    return (TextBlock(text=content),) if isinstance(content, str) else content


def _text(content: str | Iterable[Block]) -> str:
    return "\n".join(block.text for block in _blocks(content) if isinstance(block, TextBlock))
