"""The response as clients see it, and how it stands after each thing that may happen to it."""

import time
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from bus.messages.chat import FinishReason
from eventlog.events import ResponseStatus
from http_edge.errors import ErrorType
from http_edge.generation import WireUsage
from http_edge.grammar import TextFormat
from http_edge.responses.body import Body, FunctionTool, NamedFunction, ReasoningConfig, TextConfig
from http_edge.responses.items import FunctionCall, MessageItem, Reasoning

OutputItem = MessageItem | FunctionCall | Reasoning

ErrorCode = Literal["invalid_prompt", "rate_limit_exceeded", "server_error"]

# OpenAI has few codes for a response that failed; the message says more.
_CODES: dict[ErrorType, ErrorCode] = {
    "invalid_request_error": "invalid_prompt",
    "rate_limit_error": "rate_limit_exceeded",
    "server_error": "server_error",
}


class InputDetails(Struct, frozen=True, kw_only=True):
    """What is told about the input's tokens. Which were written to a cache is not told."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Struct, frozen=True, kw_only=True):
    """What is told about the output's tokens. Those of reasoning are not counted apart."""

    reasoning_tokens: int = 0


class ResponseUsage(Struct, frozen=True, kw_only=True):
    """Tokens read and written."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(Struct, frozen=True, kw_only=True):
    """Why a response failed."""

    code: ErrorCode
    message: str


class Incomplete(Struct, frozen=True, kw_only=True):
    """Why a response is not whole. A full context counts as its longest output."""

    reason: Literal["max_output_tokens"]


class Response(Struct, frozen=True, kw_only=True):
    """OpenAI's response. What was asked comes back in it; a sampling parameter that nobody said is null."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: ResponseStatus
    completed_at: int | None = None
    background: bool
    error: ResponseError | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: tuple[OutputItem, ...] = ()
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: ReasoningConfig
    store: bool
    temperature: float | None
    text: TextConfig
    tool_choice: Literal["none", "auto", "required"] | NamedFunction
    tools: tuple[FunctionTool, ...]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None


def begun(body: Body, response_id: str) -> Response:
    """Return the response to `body` before anything was said."""
    return Response(
        id=response_id,
        created_at=int(time.time()),
        status="queued" if body.background else "in_progress",
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=body.model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        reasoning=body.reasoning or ReasoningConfig(),
        store=body.store is not False,
        temperature=body.temperature,
        text=body.text if body.text and body.text.format else TextConfig(format=TextFormat()),
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or (),
        top_logprobs=body.top_logprobs or 0,
        top_p=body.top_p,
    )


def ended(
    response: Response, output: tuple[OutputItem, ...], reason: FinishReason, usage: WireUsage, at: float
) -> Response:
    """Return `response` after the model has said `output`: completed, or incomplete if that was cut."""
    if reason == "length":
        cut = Incomplete(reason="max_output_tokens")
        return replace(response, status="incomplete", incomplete_details=cut, output=output, usage=_usage(usage))
    return replace(response, status="completed", completed_at=int(at), output=output, usage=_usage(usage))


def failed(response: Response, output: tuple[OutputItem, ...], kind: ErrorType, message: str) -> Response:
    """Return `response` after something went wrong behind `output`."""
    error = ResponseError(code=_CODES[kind], message=message)
    return replace(response, status="failed", output=output, error=error)


def _usage(usage: WireUsage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=usage.prompt_tokens_details.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputDetails(),
        total_tokens=usage.total_tokens,
    )
