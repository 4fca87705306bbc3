"""Answers and errors as Anthropic has them; the stream of an answer is in `anthropic_stream`."""

from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from bus.messages.chat import FinishReason
from http_edge.errors import ErrorBody, Format
from http_edge.generation import Generated, WireUsage

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]

_STOP_REASONS: dict[FinishReason, StopReason] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

_ERROR_TYPES = {
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class AnswerUsage(Struct, frozen=True, kw_only=True):
    """Tokens read and written. Those that were known from an earlier request are not among `input_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int


def content(said: Generated, *, shows_thoughts: bool) -> list[dict[str, Any]]:
    """Return the blocks of a whole answer."""
    blocks: list[dict[str, Any]] = []
    if said.reasoning:
        blocks.append({"type": "thinking", "thinking": said.reasoning if shows_thoughts else "", "signature": ""})
    if said.text:
        blocks.append({"type": "text", "text": said.text})
    blocks += (
        {"type": "tool_use", "id": call.id, "name": call.name, "input": Raw(call.arguments.encode() or b"{}")}
        for call in said.tool_calls
    )
    return blocks


def stop_reason(reason: FinishReason, stop_sequence: str | None) -> StopReason:
    """Return why an answer ended."""
    return _STOP_REASONS[reason] if stop_sequence is None else "stop_sequence"


def answer_usage(usage: WireUsage) -> AnswerUsage:
    """Return the usage of an answer."""
    cached = usage.prompt_tokens_details.cached_tokens
    return AnswerUsage(
        input_tokens=usage.prompt_tokens - cached,
        cache_read_input_tokens=cached,
        output_tokens=usage.completion_tokens,
    )


def _error(error: ErrorBody, status: int, request_id: str) -> bytes:
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    # There is no key for the field at fault.
    is_named = error.param is None or any(f"{mark}{error.param}{mark}" in error.message for mark in "'`")
    message = error.message if is_named else f"{error.param}: {error.message}"
    told = {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    return msgspec.json.encode(told)


ANTHROPIC = Format(
    error=_error,
    frame=b"event: error\ndata: %b\n\n",
    # The clients skip pings; the note is for people, in a comment before.
    comment=b': %b\nevent: ping\ndata: {"type":"ping"}\n\n',
    done=b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    # What passes if one waits. Anthropic's clients ask again, and some change to another model.
    statuses={"queue_timeout": 529, "restarting": 529, "unavailable": 529},
    id_header="request-id",
)
