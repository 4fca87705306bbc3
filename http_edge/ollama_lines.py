"""Answers as Ollama tells them: a stream of lines of JSON, or one object that has all of it."""

import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from bus.calls import whole_calls
from bus.frames import Status
from bus.messages.chat import ChatChunk, ChatRequest, FinishReason, TokenLogprob, ToolCall, ToolCallDelta
from bus.subjects import Subject
from http_edge.generation import Generated, WireUsage, relay, whole, wire_usage
from http_edge.logprobs import chat_logprobs
from http_edge.routing import asking
from http_edge.wire import json_response


class WireFunction(Struct, frozen=True, kw_only=True):
    """What is called. `arguments` is an object, not the text of one."""

    name: str
    arguments: Raw


class WireCall(Struct, frozen=True, kw_only=True):
    """A call in an answer."""

    id: str
    function: WireFunction


# Turns text, reasoning and calls into the keys that a route has for them.
Tell = Callable[[str, str, tuple[WireCall, ...]], dict[str, Any]]


class Stopwatch:
    """Takes the times of one answer, from when it is made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter_ns()
        self._first: int | None = None

    def see_piece(self) -> None:
        """Note that a piece of the answer has come."""
        if self._first is None:
            self._first = time.perf_counter_ns()

    async def timed(self, answer: AsyncIterable[ChatChunk | Status]) -> AsyncGenerator[ChatChunk | Status]:
        """Yield `answer`, noting its pieces."""
        async for item in answer:
            if not isinstance(item, Status):
                self.see_piece()
            yield item

    def durations(self) -> dict[str, int]:
        """Return Ollama's durations, in nanoseconds. Models are loaded before, and waiting counts as reading."""
        now = time.perf_counter_ns()
        first = self._first or now
        return {
            "total_duration": now - self._begun,
            "load_duration": 0,
            "prompt_eval_duration": first - self._begun,
            "eval_duration": now - first,
        }


class Lines:
    """Turns the pieces of an answer into lines. Calls come together, in one line, when they are complete."""

    def __init__(self, model: str, tell: Tell) -> None:
        self.model = model
        self._tell = tell
        self._calls: list[ToolCallDelta] = []
        self.watch = Stopwatch()

    def __call__(self, chunk: ChatChunk) -> bytes:
        """Return the lines that tell `chunk`; none for a call that is not complete yet."""
        self.watch.see_piece()
        lines = b""
        if chunk.text or chunk.reasoning or chunk.logprobs:
            lines += self._told_calls()
            lines += self._line(self._tell(chunk.text, chunk.reasoning, ()) | _logprobs(chunk.logprobs), done=False)
        self._calls += chunk.tool_calls
        if chunk.finish_reason is not None:
            lines += self._told_calls()
            end = self._end(chunk.finish_reason, wire_usage(chunk))
            lines += self._line(self._tell("", "", ()), done=True, **end)
        return lines

    def whole(self, said: Generated) -> dict[str, Any]:
        """Return all of an answer as one object."""
        told = self._tell(said.text, said.reasoning, _wire_calls(said.tool_calls)) | _logprobs(said.logprobs)
        return {**self._head(), **told, "done": True, **self._end(said.finish_reason, said.usage)}

    def without_answer(self, reason: str) -> dict[str, Any]:
        """Return what is told of a request that says nothing: what it was for."""
        return {**self._head(), **self._tell("", "", ()), "done": True, "done_reason": reason}

    def _told_calls(self) -> bytes:
        calls, self._calls = _wire_calls(whole_calls(self._calls)), []
        return self._line(self._tell("", "", calls), done=False) if calls else b""

    def _line(self, told: dict[str, Any], *, done: bool, **end: Any) -> bytes:
        return _encode({**self._head(), **told, "done": done, **end}) + b"\n"

    def _head(self) -> dict[str, Any]:
        return {"model": self.model, "created_at": datetime.now(UTC)}

    def _end(self, reason: FinishReason, usage: WireUsage) -> dict[str, Any]:
        return {
            "done_reason": "length" if reason == "length" else "stop",
            **self.watch.durations(),
            "prompt_eval_count": usage.prompt_tokens,
            "eval_count": usage.completion_tokens,
        }


async def answered(
    request: web.Request, subject: Subject[ChatRequest, ChatChunk], message: ChatRequest, lines: Lines, *, stream: bool
) -> web.StreamResponse:
    """Ask the model on `subject`, and answer with `lines`."""
    async with asking(request, subject, lines.model, "chat", message) as answer:
        if stream:
            return await relay(request, answer, lines)
        return json_response(lines.whole(await whole(lines.watch.timed(answer))))


def _wire_calls(made: tuple[ToolCall, ...]) -> tuple[WireCall, ...]:
    return tuple(
        WireCall(id=each.id, function=WireFunction(name=each.name, arguments=_on_one_line(each.arguments or "{}")))
        for each in made
    )


def _on_one_line(arguments: str) -> Raw:
    return Raw(msgspec.json.format(arguments.encode(), indent=-1))


def _logprobs(entries: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    return {"logprobs": chat_logprobs(entries).content} if entries else {}


_encode = msgspec.json.Encoder().encode
