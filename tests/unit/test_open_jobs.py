"""What is known of the jobs that have not ended, and what is estimated from it."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from actors.estimates import Estimates
from actors.open_jobs import OpenJobs
from eventlog.events import Event
from eventlog.job import Job, fold
from tests.support import make

A, B, C = "job-a", "job-b", "job-c"


def open_jobs(*events: Event) -> OpenJobs:
    """Return what is known after these events, which the log begins with."""
    known = OpenJobs(Estimates(), lambda: None)
    known.follow(make.entries(*events))
    return known


def states(known: OpenJobs) -> dict[str, Job]:
    """Return the open jobs by their ids."""
    return {one.job.job_id: one.job for one in known.of_model(make.MODEL)}


def positions(known: OpenJobs, *job_ids: str) -> list[int | None]:
    return [known.position_of(job_id) for job_id in job_ids]


def test_queue_is_ordered_by_priority_and_then_by_the_log() -> None:
    known = open_jobs(
        make.job_queued(job_id=A, priority="low"),
        make.job_queued(job_id=B, priority="normal"),
        make.job_queued(job_id=C, priority="high"),
        make.job_queued(job_id="job-d", priority="normal"),
        make.job_queued(job_id="job-e", priority="high", model="local/other"),
    )

    assert positions(known, A, B, C, "job-d", "job-e", "job-none") == [4, 2, 1, 3, 1, None]
    assert [known.number(make.MODEL, priority) for priority in ("high", "normal", "low")] == [2, 4, 5]
    assert (known.count(make.MODEL), known.count("local/other"), known.count("local/none")) == (4, 1, 0)


def test_running_job_has_no_position_and_one_that_comes_back_has_its_old_one() -> None:
    known = open_jobs(make.job_queued(job_id=A), make.job_queued(job_id=B), make.job_started(job_id=A))
    running = known.running(make.MODEL), positions(known, A, B)

    known.follow(make.entries(make.job_retry_scheduled(job_id=A), first=4))

    assert running == (1, [None, 1])
    assert (known.running(make.MODEL), positions(known, A, B)) == (0, [1, 2])


@pytest.mark.parametrize("end", [make.job_completed, make.job_failed, make.job_cancelled])
def test_job_that_has_ended_is_forgotten(end: Any) -> None:
    known = open_jobs(make.job_queued(job_id=A), make.job_queued(job_id=B), end(job_id=A))

    assert set(states(known)) == {B}
    assert (known.count(make.MODEL), positions(known, B)) == (1, [1])


STORY = (
    make.job_queued(job_id=A),
    make.job_queued(job_id=B),
    make.job_started(job_id=A),
    make.job_retry_scheduled(job_id=A),
    make.job_cancel_requested(job_id=B),
    make.job_cancelled(job_id=B),
    make.job_started(job_id=A, attempt=2),
    make.job_completed(job_id=A, attempt=2),
)


@given(some.lists(some.integers(0, 8)), some.integers(0, 8))
def test_events_that_the_actor_recorded_count_once_and_at_once(early: list[int], length: int) -> None:
    entries = make.entries(*STORY[:length])
    known = OpenJobs(Estimates(), lambda: None)

    for number, entry in enumerate(entries):
        for ahead in sorted(each for each in early if number <= each < length):
            # An actor records what comes next only for a job that it has seen as it stands.
            if all(item.event.job_id != entries[ahead].event.job_id for item in entries[number:ahead]):  # type: ignore[union-attr]
                known.take(entries[ahead].seq, entries[ahead].event)
        known.follow([entry])

    for job_id in (A, B):
        job = fold(item.event for item in entries if item.event.job_id == job_id)  # type: ignore[union-attr]
        assert states(known).get(job_id) == (None if job is None or job.is_final else job)


def test_late_news_of_a_job_whose_end_was_taken_before_change_nothing() -> None:
    queued, ended = make.entries(make.job_queued(job_id=A), make.job_cancelled(job_id=A))
    known = OpenJobs(Estimates(), lambda: None)
    known.take(queued.seq, queued.event)
    known.take(ended.seq, ended.event)

    known.follow([queued])
    before = states(known)
    known.follow([ended])
    known.take(queued.seq, queued.event)

    assert before == states(known) == {}


def test_scheduled_job_waits_without_a_position_until_it_is_queued() -> None:
    known = open_jobs(make.job_scheduled(job_id=A, run_at=make.at(60)), make.job_queued(job_id=B))
    before = known.count(make.MODEL), positions(known, A, B), known.next_at, known.due(make.at(59))
    times = known.due(make.at(60)), known.next_at

    known.follow(make.entries(make.job_queued(job_id=A), first=3))

    assert before == (2, [None, 1], make.at(60), [])
    assert times == ([A], None)
    assert (known.count(make.MODEL), positions(known, A, B)) == (2, [2, 1])


def test_queued_job_is_due_when_it_expires_also_after_an_attempt() -> None:
    known = open_jobs(make.job_queued(job_id=A, expires_at=make.at(60)), make.job_started(job_id=A))
    while_it_runs = known.due(make.at(60))

    known.follow(make.entries(make.job_retry_scheduled(job_id=A), first=3))

    assert while_it_runs == [A]
    assert known.due(make.at(61)) == [A]


def test_whoever_waits_for_the_next_deadline_hears_of_an_earlier_one() -> None:
    heard: list[datetime | None] = []
    known = OpenJobs(Estimates(), lambda: heard.append(known.next_at))

    for number, seconds in enumerate((60, 90, 30)):
        event = make.job_queued(job_id=f"job-{number}", expires_at=make.at(seconds))
        known.follow(make.entries(event, first=number + 1))

    assert heard == [make.at(60), make.at(30)]


def test_deadlines_of_jobs_that_have_ended_do_not_pile_up() -> None:
    known = OpenJobs(Estimates(), lambda: None)

    for number in range(3000):
        pair = (
            make.job_queued(job_id=f"job-{number}", expires_at=make.at(3600)),
            make.job_failed(job_id=f"job-{number}"),
        )
        known.follow(make.entries(*pair, first=2 * number + 1))

    assert len(known._deadlines) < 1100


def test_nothing_is_estimated_before_a_job_has_run() -> None:
    known = open_jobs(make.job_queued(job_id=A))

    assert known.completion(A, make.AT) is None
    assert known.wait(make.MODEL, "chat", 1) is None


def test_completion_is_estimated_by_the_jobs_before_it_and_how_many_run_at_once() -> None:
    known = OpenJobs(Estimates(), lambda: None)
    _run(known, seconds=(2, 4, 30))
    waiting = [make.job_queued(job_id=f"job-{number}") for number in range(8)]
    known.follow(make.entries(*waiting, first=100))

    # The median is 4 s, and three ran at once.
    assert known.completion("job-0", make.AT) == 4
    assert known.completion("job-6", make.AT) == pytest.approx(6 / 3 * 4 + 4)
    assert known.wait(make.MODEL, "chat", 7) == pytest.approx(8)
    assert known.completion("job-none", make.AT) is None


def test_running_job_is_estimated_to_end_after_its_attempt_began() -> None:
    known = OpenJobs(Estimates(), lambda: None)
    _run(known, seconds=(4,))
    known.follow(make.entries(make.job_queued(job_id=B), make.job_started(job_id=B, at=make.at(10)), first=100))

    assert [known.completion(B, make.at(seconds)) for seconds in (10, 11, 99)] == [4, 3, 0]


def test_scheduled_job_is_estimated_from_its_time_on() -> None:
    known = OpenJobs(Estimates(), lambda: None)
    _run(known, seconds=(4,))
    known.follow(make.entries(make.job_scheduled(job_id=B, run_at=make.at(60)), first=100))

    assert known.completion(B, make.AT) == 64


def test_only_the_last_fifty_runs_count_and_each_operation_for_itself() -> None:
    estimates = Estimates()
    for seconds in [100.0] * 60 + [1.0] * 50:
        estimates.ended("m", "chat", seconds)
    estimates.ended("m", "embed", 9.0)

    assert [estimates.run("m", operation) for operation in ("chat", "embed", "tokenize")] == [1, 9, None]


def _run(known: OpenJobs, seconds: tuple[int, ...]) -> None:
    """Let jobs run beside each other, each for so long."""
    ids = [f"job-old-{number}" for number in range(len(seconds))]
    events: list[Event] = [make.job_queued(job_id=job_id) for job_id in ids]
    events += [make.job_started(job_id=job_id) for job_id in ids]
    events += [make.job_completed(job_id=job_id, at=make.at(each)) for job_id, each in zip(ids, seconds, strict=True)]
    known.follow(make.entries(*events))
