"""The lines of a batch: what they ask, and what they are answered."""

import io
import json
from typing import Any

import msgspec
import pytest

from bus.blobs import Draft
from bus.errors import Failure, RefusedError
from bus.messages.batches import PlannedRequest, RequestOutcome
from bus.messages.chat import ChatRequest
from bus.messages.models import ModelCard
from eventlog.batch_events import LineError
from eventlog.events import encode
from http_edge.batches.answers import AnswerLine, answer_line
from http_edge.batches.endpoints import ENDPOINTS
from http_edge.batches.plan import InputError, Planner
from tests.support import make
from tests.support.batches import line

URL = "/v1/completions"
CARD = ModelCard(id="local/chat", kind="chat", tier=1, state="ready", created=0, aliases=("short",))
CARDS = {"local/chat": CARD, "short": CARD}
RESULT = {
    "text": " two",
    "finish_reason": "stop",
    "usage": {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0},
    },
}


def plan(*lines: bytes) -> list[PlannedRequest]:
    file = io.BytesIO()
    planner = Planner(URL, ENDPOINTS[URL], CARDS)
    planner.plan(io.BytesIO(b"\n".join(lines)), Draft(file))
    planned = [msgspec.json.decode(each, type=PlannedRequest) for each in file.getvalue().splitlines()]
    assert len(planned) == planner.total
    return planned


def errors(*lines: bytes) -> tuple[LineError, ...]:
    with pytest.raises(InputError) as error:
        plan(*lines)
    return error.value.errors


def prompt(custom_id: str = "a", **body: Any) -> bytes:
    return line(custom_id, {"model": "short", "prompt": "one", **body}, url=URL)


def answer(outcome: RequestOutcome, result: bytes | None, **body: Any) -> AnswerLine:
    [planned] = plan(prompt(**body))
    return answer_line(ENDPOINTS[URL], msgspec.json.encode(planned), outcome, result)


def test_line_becomes_the_message_of_its_route_for_the_model_that_its_alias_means() -> None:
    [planned] = plan(prompt(max_tokens=5, stop="x"))

    assert (planned.custom_id, planned.model, planned.operation) == ("a", "local/chat", "complete")
    expected = ChatRequest(prompt="one", max_tokens=5, stop=("x",))
    assert msgspec.json.decode(planned.input, type=ChatRequest) == expected


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ["one", "two"]}, "body.prompt"),
        ({"prompt": [1, 2], "echo": True}, "body.echo"),
        ({"echo": True, "logprobs": 1}, "body.echo"),
        ({"stream_options": {"include_usage": True}}, "body.stream_options"),
        ({"suffix": "x"}, "body.suffix"),
        ({"n": 2}, "body.n"),
    ],
)
def test_completion_that_is_no_single_answer_is_refused(body: dict[str, Any], param: str) -> None:
    [error] = errors(prompt(**body))

    assert (error.line, error.param) == (1, param)


def test_content_parts_are_refused_by_their_place() -> None:
    body = {"model": "m", "input": ["a", {"type": "text", "text": "b"}]}

    with pytest.raises(RefusedError, match="not content parts") as refusal:
        ENDPOINTS["/v1/embeddings"].ask(msgspec.json.encode(body))

    assert refusal.value.failure.param == "input[1]"


def test_only_so_many_errors_are_told_that_an_event_holds_them() -> None:
    found = errors(*(prompt("\U0001f600" * 500 + str(number), model="\U0001f600" * 250) for number in range(60)))

    assert [each.line for each in found] == list(range(1, 51))
    assert len(encode(make.batch_failed(errors=found))) < 64 * 1024


def test_line_without_an_end_is_not_read_to_its_end() -> None:
    found = errors(prompt(), b" " * 10 * 2**20, b"{")

    assert [(each.line, each.code) for each in found] == [(2, "too_large")]


def test_answer_has_its_echo_and_names_its_job() -> None:
    outcome = RequestOutcome(status="completed", job_id="job-batch_1-7", at=make.AT, result_blob="0" * 64)

    told = answer(outcome, json.dumps(RESULT).encode(), echo=True)

    assert (told.id, told.custom_id, told.error) == ("batch_req_1-7", "a", None)
    assert told.response is not None
    assert told.response.request_id == "job-batch_1-7"
    assert msgspec.json.decode(told.response.body) == {
        "id": "cmpl-1-7",
        "object": "text_completion",
        "created": int(make.AT.timestamp()),
        "model": "local/chat",
        "choices": [{"text": "one two", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": RESULT["usage"],
    }


@pytest.mark.parametrize(
    ("failure", "result", "status", "told"),
    [
        (
            Failure(code="invalid_request", message="Too hot.", param="input.temperature"),
            None,
            400,
            {"message": "Too hot.", "type": "invalid_request_error", "param": "temperature", "code": "invalid_request"},
        ),
        (
            None,
            b'{"text": 5}',
            500,
            {
                "message": "The answer is gone or damaged.",
                "type": "server_error",
                "param": None,
                "code": "internal_error",
            },
        ),
    ],
)
def test_what_went_wrong_is_told_as_the_endpoint_would(
    failure: Failure | None, result: bytes | None, status: int, told: dict[str, Any]
) -> None:
    outcome = RequestOutcome(status="failed" if failure else "completed", job_id="job-batch_1-7", failure=failure)

    line = answer(outcome, result)

    assert line.response is not None
    assert (line.is_answer, line.response.status_code) == (False, status)
    assert msgspec.json.decode(line.response.body) == {"error": told}
