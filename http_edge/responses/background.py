"""A response in the background is a job: what the job's state and result mean for it."""

from typing import assert_never

from msgspec.structs import replace

from bus.messages.chat import ChatChunk, ToolCallDelta
from bus.messages.jobs import JobReply
from http_edge.errors import ErrorType
from http_edge.generation import Generated
from http_edge.responses.output import Output
from http_edge.responses.view import Response, ended, failed
from http_edge.results import chat_result


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
            return answered(response, chat_result(result), job.completed_at.timestamp())
        case _:
            assert_never(job.status)
