"""The stream of an answer as Anthropic has it: blocks that begin, grow and end, one after the other."""

from typing import Any

import msgspec

from bus.messages.chat import ChatChunk, ToolCallDelta
from http_edge.anthropic_answer import AnswerUsage, answer_usage, stop_reason
from http_edge.generation import wire_usage

# How many tokens the prompt has is known at the end, where it is told.
_UNKNOWN_USAGE = AnswerUsage(input_tokens=0, cache_read_input_tokens=0, output_tokens=0)


class AnswerFrames:
    """Turns the pieces of an answer into events. Blocks come in the order in which the model writes them."""

    def __init__(self, head: dict[str, Any], *, shows_thoughts: bool) -> None:
        self._shows_thoughts = shows_thoughts
        message = head | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": _UNKNOWN_USAGE}
        self._frames = _event("message_start", message=message)
        self._index = -1
        # Which block is open: its type, and of a call its number too.
        self._open: str | int | None = None

    def __call__(self, chunk: ChatChunk) -> bytes:
        """Return the events that tell `chunk`."""
        if chunk.reasoning:
            self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            if self._shows_thoughts:
                self._delta({"type": "thinking_delta", "thinking": chunk.reasoning})
        if chunk.text:
            self._begin("text", {"type": "text", "text": ""})
            self._delta({"type": "text_delta", "text": chunk.text})
        for call in chunk.tool_calls:
            self._call(call)
        if chunk.finish_reason is not None:
            self._end()
            reason = stop_reason(chunk.finish_reason, chunk.stop_sequence)
            delta = {"stop_reason": reason, "stop_sequence": chunk.stop_sequence}
            self._frames += _event("message_delta", delta=delta, usage=answer_usage(wire_usage(chunk)))
        frames, self._frames = self._frames, b""
        return frames

    def _call(self, call: ToolCallDelta) -> None:
        self._begin(call.index, {"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        if call.arguments:
            self._delta({"type": "input_json_delta", "partial_json": call.arguments})

    def _begin(self, which: str | int, block: dict[str, Any]) -> None:
        """Open a block, unless `which` is open already."""
        if which == self._open:
            return
        self._end()
        self._open = which
        self._index += 1
        self._frames += _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> None:
        self._frames += _event("content_block_delta", index=self._index, delta=delta)

    def _end(self) -> None:
        """Close the block that is open, if any."""
        if self._open is None:
            return
        if self._open == "thinking":
            self._delta({"type": "signature_delta", "signature": ""})
        self._open = None
        self._frames += _event("content_block_stop", index=self._index)


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind} | fields))
