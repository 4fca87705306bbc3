"""How the results of a job and its replay compare."""

from typing import Any

import msgspec
import pytest

from actors.comparison import compare
from eventlog.job import Job
from tests.support import make

DONE = make.job(status="completed", replay_of="job-0", revision="r1")


def differences(before: Any, after: Any, first: Job | None = DONE, again: Job = DONE) -> tuple[bool, tuple[str, ...]]:
    results = [None if each is None else msgspec.json.encode(each) for each in (before, after)]
    compared = compare("job-0", first, again, *results)
    assert compared.replay_of == "job-0"
    return compared.is_same, compared.differences


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"content": "a"}, {"content": "a"}),
        ({"usage": {"read": 3, "more": {"cached_tokens": 0}}}, {"usage": {"read": 3, "more": {"cached_tokens": 9}}}),
        ({"tool_calls": [{"id": "1", "name": "f"}]}, {"tool_calls": [{"id": "2", "name": "f"}]}),
        ({"logprobs": [{"logprob": -1.5}]}, {"logprobs": [{"logprob": -1.5001}]}),
        ({"embeddings": [[1.0, 0.0]]}, {"embeddings": [[1.0, 0.001]]}),
        ({"embeddings": [[0.0, 0.0]]}, {"embeddings": [[0.0, 0.0]]}),
    ],
)
def test_results_that_differ_by_what_is_their_own_or_by_rounding_are_the_same(before: Any, after: Any) -> None:
    assert differences(before, after) == (True, ())


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ({"content": "a cat"}, {"content": "a cow"}, "content: from character 4 on, 'at' before, 'ow' now"),
        ({"content": "a"}, {"content": "ab"}, "content: from character 2 on, '' before, 'b' now"),
        ({"finish_reason": "stop"}, {"finish_reason": None}, "finish_reason: 'stop' before, None now"),
        ({"usage": {"total": 3}}, {"usage": {"total": 4}}, "usage.total: 3 before, 4 now"),
        ({"tokens": [1, 2]}, {"tokens": [1, 3]}, "tokens[1]: 2 before, 3 now"),
        ({"tokens": [1, 2]}, {"tokens": [1]}, "tokens: [1, 2] before, [1] now"),
        ({"embeddings": [[1.0, 0.0]]}, {"embeddings": [[0.0, 1.0]]}, "embeddings[0]: cosine 0.000000"),
        ({"embeddings": [[1.0, 0.0]]}, {"embeddings": []}, "embeddings: 1 before, 0 now"),
        ({"embeddings": [[1.0, 0.0]]}, {"embeddings": [[1.0]]}, "embeddings[0]: cosine 0.000000"),
        (None, {"content": "a"}, "the result of the first job is gone or damaged"),
        ({"content": "a"}, None, "the result of the replay is gone or damaged"),
    ],
)
def test_difference_is_named(before: Any, after: Any, difference: str) -> None:
    assert differences(before, after) == (False, (difference,))


def test_other_files_of_the_model_are_named_beside() -> None:
    again = make.job(status="completed", revision="r2")

    assert differences({"a": 1}, {"a": 1}, again=again) == (True, ("the files of the model: r1 before, r2 now",))
    assert differences({"a": 1}, {"a": 2}, again=again)[0] is False


def test_jobs_that_ended_otherwise_are_not_the_same() -> None:
    failed = make.job(status="failed", reason="timeout")

    assert differences(None, {"a": 1}, first=failed) == (False, ("status: failed (timeout) before, completed now",))
    assert differences(None, {"a": 1}, first=None) == (False, ("the first job is not in the log any more",))
