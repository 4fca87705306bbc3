"""Puts the calls of a streamed answer together."""

from collections.abc import Iterable

from bus.messages.chat import ToolCall, ToolCallDelta


def whole_calls(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCall, ...]:
    """Return the calls whose pieces are `deltas`, in the order of their indexes."""
    found: dict[int, ToolCall] = {}
    for delta in deltas:
        known = found.get(delta.index, ToolCall(id="", name="", arguments=""))
        found[delta.index] = ToolCall(
            id=delta.id or known.id, name=delta.name or known.name, arguments=known.arguments + delta.arguments
        )
    return tuple(found[index] for index in sorted(found))
