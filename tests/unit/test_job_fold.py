"""What no sequence of events can do to a job, and events as older and newer versions write them."""

import json
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.events import (
    Event,
    JobCancelled,
    JobCompleted,
    JobEvent,
    JobFailed,
    JobQueued,
    JobScheduled,
    JobStarted,
    Unknown,
    decode,
    encode,
)
from eventlog.job import Job, Stamp, decide_attempt, decide_cancel, decide_due, decide_expiry, fold
from tests.support import make

ENDS = (JobCompleted, JobFailed, JobCancelled)

_moments = st.integers(-1000, 1000).map(make.at)
_maybe = st.none() | _moments
_fields: dict[str, st.SearchStrategy[Any]] = {
    "at": _moments,
    "run_at": _moments,
    "expires_at": _maybe,
    "attempt": st.integers(0, 20),
    "max_attempts": st.none() | st.integers(1, 20),
}
_unknown = st.builds(Unknown, kind=st.just("job.paused"), raw=st.just(b'{"type":"job.paused"}'))


def _of(kind: type[JobEvent]) -> st.SearchStrategy[JobEvent]:
    return st.builds(kind, **{name: each for name, each in _fields.items() if name in kind.__struct_fields__})


_job_events = st.one_of(*map(_of, get_args(JobEvent)))
_sequences = st.lists(_job_events | _unknown, max_size=8)
# Of any sequence few are lives, so these begin like one.
_lives = st.builds(lambda queued, rest: [queued, *rest], _of(JobQueued) | _of(JobScheduled), _sequences)


@given(_sequences | _lives)
def test_any_sequence_of_events_can_be_folded_and_gives_the_same_again(sequence: Sequence[Event | Unknown]) -> None:
    assert fold(sequence) == fold(sequence)


@given(_sequences | _lives)
def test_unknown_events_change_nothing(sequence: Sequence[Event | Unknown]) -> None:
    assert fold(sequence) == fold(event for event in sequence if not isinstance(event, Unknown))


@given(_lives)
def test_the_first_terminal_event_is_final(life: Sequence[Event | Unknown]) -> None:
    first = next((number for number, event in enumerate(life) if isinstance(event, ENDS)), None)

    job = fold(life)

    assert job is not None
    assert job.is_final == (first is not None)
    if first is not None:
        assert job == fold(life[: first + 1])


@given(_lives)
def test_attempts_never_fall_below_what_was_started(life: Sequence[Event | Unknown]) -> None:
    known = [event for event in life if isinstance(event, JobEvent)]
    end = next((number for number, event in enumerate(known) if isinstance(event, ENDS)), len(known))
    started = [event.attempt for event in known[:end] if isinstance(event, JobStarted)]

    job = fold(life)

    assert job is not None
    assert job.attempts == max(started, default=0)


@given(_lives, _moments)
def test_whatever_is_decided_can_be_recorded_and_nothing_is_about_a_job_that_has_ended(
    life: Sequence[Event | Unknown], at: Any
) -> None:
    job, stamp = fold(life), Stamp("01M7YTZWZ0E8VQBQGHR1YNQ2Y7", at)
    assert job is not None

    decided = [
        event
        for event in (
            decide_attempt(job, stamp, actor="chat-1", max_attempts=5),
            decide_cancel(job, stamp),
            decide_expiry(job, stamp),
            decide_due(job, stamp),
        )
        if event is not None
    ]

    assert [decode(encode(event)) for event in decided] == decided
    assert not (job.is_final and decided)


# As docs/events.md had them when they had no more fields than these.
OLD = (
    (
        '{"type":"job.queued","id":"01M7YTZWZ0E8VQBQGHR1YNQ2Y7","at":"2026-11-21T10:38:49.312852Z",'
        '"job_id":"job-77c5873a2c809423beeab3a765b082df","model":"fusion-toy","operation":"chat","priority":"normal",'
        '"input_blob":"3c7948a6a6d7f2fa1d84cb9d65ed1d63c20bd902b000ad2afcafb745d7c5169f","metadata":{"ticket":17},"v":1}'
    ),
    (
        '{"type":"job.started","id":"01M7YTZWZHMVQJKTCGD7J91GRC","at":"2026-11-21T10:38:49.329409Z",'
        '"job_id":"job-77c5873a2c809423beeab3a765b082df","actor":"model-fusion-toy-s1646ha9","attempt":1,"v":1}'
    ),
    (
        '{"type":"job.retry_scheduled","id":"01M7YV24AZ3W9SP1XZ1W9N0HGV","at":"2026-11-21T10:40:02.118204Z",'
        '"job_id":"job-01M7YV0DYB99TMA2S34AACTGNE","attempt":1,"delay":0.5,'
        '"error":"The model\'s process ended while answering.","v":1}'
    ),
    (
        '{"type":"job.cancel_requested","id":"01M7YWD41Q1C64NHX3A7F8X87V","at":"2026-11-21T11:03:31.127306Z",'
        '"job_id":"job-01M7YWD3VJ71V25Y4AG9VB12ZN","v":1}'
    ),
    (
        '{"type":"job.completed","id":"01M7YTZXE70SM043KMYMXAHH7T","at":"2026-11-21T10:38:49.799865Z",'
        '"job_id":"job-77c5873a2c809423beeab3a765b082df","attempt":1,'
        '"result_blob":"cd57f12912298e1d33ac2276f3c2ef7ca86c0da9426320ddd038844b64933d45","prompt_tokens":18,'
        '"completion_tokens":105,"v":1}'
    ),
    (
        '{"type":"job.failed","id":"01M7YV3X7H7RHJ2GP7KX9M4B6D","at":"2026-11-21T10:41:00.402117Z",'
        '"job_id":"job-01M7YV0DYB99TMA2S34AACTGNE","reason":"max_attempts",'
        '"error":"Gave up after 5 attempts. Last error: the worker died","v":1}'
    ),
    (
        '{"type":"job.cancelled","id":"01M7YWE19BWEBRJ4VTCAXTVQFF","at":"2026-11-21T11:04:01.067540Z",'
        '"job_id":"job-01M7YWD3VJ71V25Y4AG9VB12ZN","v":1}'
    ),
)


@pytest.mark.parametrize("raw", OLD, ids=lambda raw: json.loads(raw)["type"])
def test_event_as_an_older_version_wrote_it_is_read(raw: str) -> None:
    event = decode(raw.encode())

    assert type(event).__struct_config__.tag == json.loads(raw)["type"]
    assert json.loads(encode(event)) == json.loads(encode(event)) | json.loads(raw)


def test_events_as_an_older_version_wrote_them_add_up() -> None:
    job = fold(decode(raw.encode()) for raw in (OLD[0], OLD[1], OLD[4]))

    assert job is not None
    assert (job.status, job.attempts, job.completion_tokens, job.metadata) == ("completed", 1, 105, {"ticket": 17})
    assert (job.expires_at, job.seed, job.revision, job.key) == (None, None, None, None)


@pytest.mark.parametrize("raw", OLD, ids=lambda raw: json.loads(raw)["type"])
def test_fields_that_a_newer_version_adds_are_left_alone(raw: str) -> None:
    newer = json.dumps(json.loads(raw) | {"colour": "green", "v": 2}).encode()

    assert type(decode(newer)) is type(decode(raw.encode()))


def test_event_of_a_kind_that_only_a_newer_version_knows_is_kept() -> None:
    raw = b'{"type":"job.paused","id":"01","at":"2026-11-21T10:38:49Z","job_id":"job-1","v":1}'

    assert decode(raw) == Unknown(kind="job.paused", raw=raw)


def test_job_is_unchanged_by_what_only_a_newer_version_knows() -> None:
    paused = decode(b'{"type":"job.paused","job_id":"job-1"}')
    life: list[Event | Unknown] = [make.job_queued(), make.job_started()]

    assert isinstance(fold([*life, paused]), Job)
    assert fold([*life, paused, make.job_completed()]) == fold([*life, make.job_completed()])
