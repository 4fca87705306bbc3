"""Grows the output of a response piece by piece, and tells each step as an event of OpenAI's stream."""

from typing import Any

import msgspec

from bus.messages.chat import ChatChunk, FinishReason, TokenLogprob, ToolCallDelta
from http_edge.logprobs import ChatToken, chat_logprobs
from http_edge.responses.items import (
    FunctionCall,
    ItemStatus,
    MessageItem,
    OutputText,
    Reasoning,
    ReasoningText,
    item_id,
)
from http_edge.responses.view import OutputItem, Response

# The name of an event, and its fields besides those that all events of an item have.
Event = tuple[str, dict[str, Any]]


class _Message:
    def __init__(self, stem: str) -> None:
        self.id = item_id(MessageItem, stem)
        self._pieces: list[str] = []
        self._logprobs: list[ChatToken] = []

    def add(self, piece: str, logprobs: tuple[TokenLogprob, ...]) -> Event:
        tokens = chat_logprobs(logprobs).content
        self._pieces.append(piece)
        self._logprobs += tokens
        return "response.output_text.delta", {"content_index": 0, "delta": piece, "logprobs": tokens}

    def item(self, status: ItemStatus) -> MessageItem:
        content = () if status == "in_progress" else (self._part(),)
        return MessageItem(id=self.id, role="assistant", status=status, content=content)

    def opening(self) -> list[Event]:
        return [("response.content_part.added", {"content_index": 0, "part": self._part()})]

    def closing(self) -> list[Event]:
        part = self._part()
        done = {"content_index": 0, "text": part.text, "logprobs": part.logprobs}
        return [
            ("response.output_text.done", done),
            ("response.content_part.done", {"content_index": 0, "part": part}),
        ]

    def _part(self) -> OutputText:
        return OutputText(text="".join(self._pieces), logprobs=tuple(self._logprobs))


class _Reasoning:
    def __init__(self, stem: str) -> None:
        self.id = item_id(Reasoning, stem)
        self._pieces: list[str] = []

    def add(self, piece: str) -> Event:
        self._pieces.append(piece)
        return "response.reasoning_text.delta", {"content_index": 0, "delta": piece}

    def item(self, status: ItemStatus) -> Reasoning:
        content = () if status == "in_progress" else (self._part(),)
        return Reasoning(id=self.id, content=content, status=status)

    def opening(self) -> list[Event]:
        return [("response.content_part.added", {"content_index": 0, "part": self._part()})]

    def closing(self) -> list[Event]:
        part = self._part()
        return [
            ("response.reasoning_text.done", {"content_index": 0, "text": part.text}),
            ("response.content_part.done", {"content_index": 0, "part": part}),
        ]

    def _part(self) -> ReasoningText:
        return ReasoningText(text="".join(self._pieces))


class _Call:
    def __init__(self, stem: str, call_id: str, name: str) -> None:
        self.id = item_id(FunctionCall, stem)
        self._call_id = call_id
        self._name = name
        self._pieces: list[str] = []

    def add(self, piece: str) -> Event:
        self._pieces.append(piece)
        return "response.function_call_arguments.delta", {"delta": piece}

    def item(self, status: ItemStatus) -> FunctionCall:
        arguments = "".join(self._pieces)
        return FunctionCall(id=self.id, call_id=self._call_id, name=self._name, arguments=arguments, status=status)

    def opening(self) -> list[Event]:
        return []

    def closing(self) -> list[Event]:
        arguments = "".join(self._pieces)
        return [("response.function_call_arguments.done", {"arguments": arguments})]


class Output:
    """The output of one response. Its items have the same ids whenever it is grown again from the same answer."""

    def __init__(self, response_id: str) -> None:
        self._stem = response_id.removeprefix("resp_")
        self._whole: list[OutputItem] = []
        self._growing: _Message | _Reasoning | _Call | None = None
        self._sequence = 0

    @property
    def items(self) -> tuple[OutputItem, ...]:
        """The items that are whole."""
        return tuple(self._whole)

    def tell(self, kind: str, response: Response) -> bytes:
        """Return the frame of an event about the response itself."""
        return self._frame(kind, {"response": response})

    def feed(self, chunk: ChatChunk) -> bytes:
        """Add `chunk`, and return the frames that tell it."""
        frames = b""
        if chunk.reasoning:
            frames += self._reason(chunk.reasoning)
        if chunk.text or chunk.logprobs:
            frames += self._say(chunk.text, chunk.logprobs)
        for delta in chunk.tool_calls:
            frames += self._call(delta)
        return frames

    def close(self, status: ItemStatus) -> bytes:
        """End the item that is growing, and return the frames that tell it."""
        if self._growing is None:
            return b""
        item = self._growing.item(status)
        frames = self._tell_item(*self._growing.closing())
        frames += self._frame("response.output_item.done", {"output_index": len(self._whole), "item": item})
        self._whole.append(item)
        self._growing = None
        return frames

    def end(self, reason: FinishReason) -> bytes:
        """End the whole output, and return the frames that tell it. An answer of nothing is an empty message."""
        frames = b"" if self._growing or self._whole else self._say("", ())
        return frames + self.close("incomplete" if reason == "length" else "completed")

    def _reason(self, piece: str) -> bytes:
        frames, growing = b"", self._growing
        if not isinstance(growing, _Reasoning):
            frames = self.close("completed")
            growing = _Reasoning(self._next_stem())
            frames += self._open(growing)
        return frames + self._tell_item(growing.add(piece))

    def _say(self, piece: str, logprobs: tuple[TokenLogprob, ...]) -> bytes:
        frames, growing = b"", self._growing
        if not isinstance(growing, _Message):
            frames = self.close("completed")
            growing = _Message(self._next_stem())
            frames += self._open(growing)
        return frames + self._tell_item(growing.add(piece, logprobs))

    def _call(self, delta: ToolCallDelta) -> bytes:
        frames, growing = b"", self._growing
        if delta.id is not None or not isinstance(growing, _Call):
            frames = self.close("completed")
            growing = _Call(self._next_stem(), delta.id or "", delta.name or "")
            frames += self._open(growing)
        return frames + (self._tell_item(growing.add(delta.arguments)) if delta.arguments else b"")

    def _open(self, growing: _Message | _Reasoning | _Call) -> bytes:
        self._growing = growing
        added = {"output_index": len(self._whole), "item": growing.item("in_progress")}
        return self._frame("response.output_item.added", added) + self._tell_item(*growing.opening())

    def _next_stem(self) -> str:
        return f"{self._stem}_{len(self._whole)}"

    def _tell_item(self, *events: Event) -> bytes:
        assert self._growing is not None  # noqa: S101 - events of an item are told while it grows
        place = {"output_index": len(self._whole), "item_id": self._growing.id}
        return b"".join(self._frame(kind, place | fields) for kind, fields in events)

    def _frame(self, kind: str, fields: dict[str, Any]) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence} | fields
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(event))


_encode = msgspec.json.Encoder().encode
