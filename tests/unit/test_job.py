"""The fold of a job, and the rules about its next event."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from eventlog.events import JobEvent, Unknown, decode, encode
from eventlog.job import Job, Stamp, apply, decide_attempt, decide_cancel, fold
from tests.support import make

STAMP = Stamp("event-1", make.AT)
MAKERS = (
    make.job_queued,
    make.job_started,
    make.job_retry_scheduled,
    make.job_cancel_requested,
    make.job_completed,
    make.job_failed,
    make.job_cancelled,
)
anything = some.builds(
    lambda maker, attempt: maker(attempt=attempt) if maker in (make.job_started, make.job_completed) else maker(),
    some.sampled_from(MAKERS),
    some.integers(0, 9),
)
strange = some.builds(Unknown, kind=some.text(), raw=some.binary())


@given(some.lists(anything | strange, max_size=12))
def test_fold_takes_any_events_and_a_final_status_stays(events: list[JobEvent | Unknown]) -> None:
    final: Job | None = None
    for count in range(len(events) + 1):
        job = fold(events[:count])
        if final is not None:
            assert job == final
        elif job is not None and job.is_final:
            assert job.completed_at is not None
            final = job


@given(some.lists(anything, max_size=8), some.integers(1, 5))
def test_what_is_decided_for_any_job_may_be_applied_to_it(events: list[JobEvent], max_attempts: int) -> None:
    job = fold([make.job_queued(), *events])
    assert job is not None

    for event in (decide_attempt(job, STAMP, actor="a", max_attempts=max_attempts), decide_cancel(job, STAMP)):
        assert (event is None) <= (job.is_final or job.cancel_requested)
        if event is not None:
            after = apply(job, event)
            assert after is not None
            assert after != job


@given(anything)
def test_event_is_read_as_it_was_written(event: JobEvent) -> None:
    assert decode(encode(event)) == event


@given(some.binary() | some.builds(encode, anything).flatmap(lambda raw: some.just(raw[:-2])))
def test_any_bytes_are_read(raw: bytes) -> None:
    event = decode(raw)

    assert isinstance(event, Unknown) or encode(event)


def test_event_with_fields_of_a_later_version_is_read() -> None:
    event = make.job_started()
    raw = msgspec.json.encode(msgspec.json.decode(encode(event)) | {"mood": "fine", "v": 2})

    assert decode(raw) == make.job_started(id=event.id, v=2)


def test_event_of_a_later_version_keeps_its_kind() -> None:
    assert decode(b'{"type":"job.danced"}') == Unknown(kind="job.danced", raw=b'{"type":"job.danced"}')


def test_job_of_which_only_the_end_is_left_is_none() -> None:
    assert fold([make.job_started(), make.job_completed()]) is None


def test_completed_job_tells_all() -> None:
    job = fold(
        [
            make.job_queued(metadata={"a": 1}),
            make.job_started(at=make.at(1)),
            make.job_retry_scheduled(at=make.at(2)),
            make.job_started(at=make.at(3), attempt=2),
            make.job_completed(at=make.at(4), attempt=2),
        ]
    )

    assert job == make.job(
        status="completed",
        metadata={"a": 1},
        attempts=2,
        started_at=make.at(1),
        completed_at=make.at(4),
        result_blob="1" * 64,
        prompt_tokens=2,
        completion_tokens=3,
    )


def test_retried_job_is_queued_again_with_its_error() -> None:
    job = fold([make.job_queued(), make.job_started(), make.job_retry_scheduled(error="lost")])

    assert job == make.job(status="queued", attempts=1, started_at=make.AT, error="lost")


@pytest.mark.parametrize("end", [make.job_completed, make.job_failed, make.job_cancelled])
def test_final_status_stays_whatever_comes(end: type) -> None:
    ended = fold([make.job_queued(), make.job_started(), end()])

    assert ended is not None
    assert all(apply(ended, maker()) == ended for maker in MAKERS)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"status": "completed"}, "NoneType"),
        ({"status": "failed", "cancel_requested": True}, "NoneType"),
        ({"status": "cancelled", "attempts": 9}, "NoneType"),
        ({"cancel_requested": True}, "JobCancelled"),
        ({"cancel_requested": True, "attempts": 9}, "JobCancelled"),
        ({"status": "processing", "cancel_requested": True}, "JobCancelled"),
        ({"attempts": 3}, "JobFailed"),
        ({"status": "processing", "attempts": 3}, "JobFailed"),
        ({}, "JobStarted"),
        ({"attempts": 2}, "JobStarted"),
        ({"status": "processing", "attempts": 1}, "JobStarted"),
    ],
)
def test_what_a_worker_records_first(fields: dict[str, object], kind: str) -> None:
    event = decide_attempt(make.job(**fields), STAMP, actor="chat-1", max_attempts=3)

    assert type(event).__name__ == kind


def test_next_attempt_counts_on() -> None:
    event = decide_attempt(make.job(attempts=2), STAMP, actor="chat-1", max_attempts=3)

    assert event == make.job_started(id="event-1", attempt=3, actor="chat-1")


def test_job_whose_attempts_were_used_fails_with_its_last_error() -> None:
    event = decide_attempt(make.job(attempts=3, error="lost"), STAMP, actor="chat-1", max_attempts=3)

    message = "Gave up after 3 attempts. Last error: lost"
    assert event == make.job_failed(id="event-1", reason="max_attempts", error=message)


@pytest.mark.parametrize(
    ("fields", "asks"),
    [
        ({}, True),
        ({"status": "processing"}, True),
        ({"cancel_requested": True}, False),
        ({"status": "completed"}, False),
        ({"status": "failed"}, False),
        ({"status": "cancelled"}, False),
    ],
)
def test_cancel_is_asked_for_once_and_only_before_the_end(fields: dict[str, object], asks: bool) -> None:
    event = decide_cancel(make.job(**fields), STAMP)

    assert event == (make.job_cancel_requested(id="event-1") if asks else None)
