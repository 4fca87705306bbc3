"""From how the requests of a batch ended to its two files: answers, and errors."""

import msgspec
from msgspec import Raw, Struct

from bus.errors import Failure
from bus.messages.batches import PlannedRequest, RequestOutcome
from http_edge.batches.endpoints import Answered, Endpoint, Show
from http_edge.errors import STATUSES, Envelope, ErrorBody


class LineResponse(Struct, frozen=True, kw_only=True):
    """What the endpoint would have answered; `request_id` is the job."""

    status_code: int
    request_id: str
    body: Raw


class LineFault(Struct, frozen=True, kw_only=True):
    """Why the endpoint was not asked."""

    code: str
    message: str


class AnswerLine(Struct, frozen=True, kw_only=True):
    """A line of either file, as OpenAI has it."""

    id: str
    custom_id: str
    response: LineResponse | None = None
    error: LineFault | None = None

    @property
    def is_answer(self) -> bool:
        """Whether it belongs to the answers."""
        return self.response is not None and self.response.status_code == 200


def answer_line(endpoint: Endpoint, plan: bytes, outcome: RequestOutcome, result: bytes | None) -> AnswerLine:
    """Return the line that tells how the request in the line `plan` ended; `result` is that of its job."""
    planned = _planned.decode(plan)
    name = outcome.job_id.removeprefix("job-batch_")
    line_id = f"batch_req_{name}"
    fault = _FAULTS.get(outcome.status)
    if fault is not None:
        return AnswerLine(id=line_id, custom_id=planned.custom_id, error=fault)
    body = None if result is None else _body(endpoint, planned, outcome, result, name)
    if body is not None:
        response = LineResponse(status_code=200, request_id=outcome.job_id, body=body)
    else:
        response = _refused(outcome)
    return AnswerLine(id=line_id, custom_id=planned.custom_id, response=response)


def _refused(outcome: RequestOutcome) -> LineResponse:
    failure = outcome.failure or Failure(code="internal_error", message="The answer is gone or damaged.")
    status, kind = STATUSES[failure.code]
    param = failure.param and failure.param.removeprefix("input.")
    error = Envelope(ErrorBody(message=failure.message, type=kind, param=param, code=failure.code))
    return LineResponse(status_code=status, request_id=outcome.job_id, body=Raw(_encode(error)))


def _body(endpoint: Endpoint, planned: PlannedRequest, outcome: RequestOutcome, result: bytes, name: str) -> Raw | None:
    """Return the answer; None when the result cannot be read."""
    try:
        show = _show.decode(planned.show)
        created = int(outcome.at.timestamp()) if outcome.at else 0
        told = endpoint.tell(Answered(result=result, show=show, model=planned.model, name=name, created=created))
    except msgspec.DecodeError:
        return None
    return Raw(_encode(told))


_FAULTS: dict[str, LineFault] = {
    "expired": LineFault(
        code="batch_expired", message="This request could not be done before the completion window ended."
    ),
    "cancelled": LineFault(code="batch_cancelled", message="This request was cancelled before it was done."),
}

_planned = msgspec.json.Decoder(PlannedRequest)
_show = msgspec.json.Decoder(Show)
_encode = msgspec.json.Encoder().encode
