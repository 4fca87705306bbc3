"""What chaos finds wrong, if it is."""

import pytest

from bench.chaos_check import Events, violations
from eventlog.events import Unknown
from eventlog.job import fold
from tests.support import make

QUEUED, STARTED, AGAIN = make.job_queued(), make.job_started(), make.job_started(attempt=2)
RETRY, WISH = make.job_retry_scheduled(), make.job_cancel_requested()
COMPLETED, LATE, CANCELLED = make.job_completed(), make.job_completed(attempt=2), make.job_cancelled()


def found(*events: object) -> list[str]:
    recorded: dict[str, Events] = {make.JOB_ID: events}  # type: ignore[dict-item]
    job = fold(recorded[make.JOB_ID])
    return violations([make.JOB_ID], recorded, {make.JOB_ID: job} if job else {})


@pytest.mark.parametrize(
    "events",
    [
        (QUEUED, STARTED, COMPLETED),
        (QUEUED, STARTED, AGAIN, LATE),
        (QUEUED, STARTED, RETRY, AGAIN, WISH, CANCELLED),
        (QUEUED, WISH, CANCELLED),
        (QUEUED, STARTED, RETRY, make.job_failed()),
    ],
)
def test_a_life_is_not_wrong(events: tuple[object, ...]) -> None:
    assert found(*events) == []


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ((STARTED, COMPLETED), "event 0 is JobStarted"),
        ((QUEUED, QUEUED, CANCELLED), "event 1 is JobQueued"),
        ((QUEUED, AGAIN, LATE), "attempt 2 was started as number 1"),
        ((QUEUED, STARTED, AGAIN, COMPLETED), "JobCompleted of attempt 1, while 2 ran"),
        ((QUEUED, STARTED, RETRY, COMPLETED), "JobCompleted of attempt 1, while none ran"),
        ((QUEUED, STARTED, Unknown(kind="job.x", raw=b""), COMPLETED), "Unknown is no event of its life"),
        ((QUEUED, STARTED), "0 terminal events"),
        ((QUEUED, STARTED, COMPLETED, CANCELLED), "2 terminal events"),
        ((QUEUED, STARTED, COMPLETED, WISH), "1 events behind the terminal one"),
    ],
)
def test_what_is_no_life_is_told(events: tuple[object, ...], line: str) -> None:
    assert f"{make.JOB_ID}: {line}" in found(*events)


def test_lost_and_strange_jobs_are_told() -> None:
    recorded: dict[str, Events] = {"job-2": (QUEUED, CANCELLED)}

    lines = violations(["job-1"], recorded, {"job-2": make.job(), "job-3": make.job()})

    assert [line.split(" the ")[0] for line in lines] == [
        "job-1: accepted, and not in",
        "job-2: in",
        "job-2:",
        "job-3: in",
    ]
    assert "job-2: the history says" in lines[2]
