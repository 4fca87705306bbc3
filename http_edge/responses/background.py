"""A response in the background is a job: what the job's state and result mean for it."""

from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bus.messages.chat import ChatChunk, FinishReason, TokenLogprob, ToolCall, ToolCallDelta
from bus.messages.jobs import JobReply
from http_edge.errors import ErrorType
from http_edge.generation import Generated, WireUsage
from http_edge.responses.output import Output
from http_edge.responses.view import Response, ended, failed


class ChatResult(Struct, frozen=True, kw_only=True):
    """The result of a job that chats, as docs/http.md has it."""

    content: str
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason
    usage: WireUsage
    logprobs: tuple[TokenLogprob, ...] = ()


def answered(response: Response, said: Generated, at: float) -> Response:
    """Return `response` with the whole answer `said`, which was there `at` (seconds since the epoch)."""
    calls = tuple(
        ToolCallDelta(index=index, id=each.id, name=each.name, arguments=each.arguments)
        for index, each in enumerate(said.tool_calls)
    )
    output = Output(response.id)
    output.feed(ChatChunk(reasoning=said.reasoning, text=said.text, logprobs=said.logprobs, tool_calls=calls))
    output.end(said.finish_reason)
    return ended(response, output.items, said.finish_reason, said.usage, at)


def as_job_stands(response: Response, job: JobReply, result: bytes | None) -> Response:
    """Return the queued `response` as its job stands by now. `result` is the job's, None when there is none."""
    match job.status:
        case "queued":
            return response
        case "processing":
            return replace(response, status="in_progress")
        case "cancelled":
            return replace(response, status="cancelled")
        case "failed":
            kind: ErrorType = "invalid_request_error" if job.reason == "refused" else "server_error"
            return failed(response, (), kind, job.error or "The job failed.")
        case "completed":
            if result is None or job.completed_at is None:
                return failed(response, (), "server_error", "The answer is gone or damaged.")
            said = _result.decode(result)
            return answered(response, _generated(said), job.completed_at.timestamp())
        case _:
            assert_never(job.status)


def _generated(result: ChatResult) -> Generated:
    return Generated(
        text=result.content,
        reasoning=result.reasoning_content,
        tool_calls=result.tool_calls,
        finish_reason=result.finish_reason,
        usage=result.usage,
        logprobs=result.logprobs,
    )


_result = msgspec.json.Decoder(ChatResult)
