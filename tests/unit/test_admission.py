"""When one more job is accepted."""

import pytest

from actors.admission import Admission
from actors.estimates import Estimates
from actors.open_jobs import OpenJobs
from bus.errors import RefusedError
from tests.support import make


class Log:
    """A log that is full to some part, and counts who looks."""

    def __init__(self, filled: float) -> None:
        self.filled = filled
        self.looks = 0

    async def fill(self) -> float:
        self.looks += 1
        return self.filled


def known_jobs() -> OpenJobs:
    """Return what is known after a job of ten seconds, when two others wait."""
    known = OpenJobs(Estimates(), lambda: None)
    story = make.job_queued(), make.job_started(), make.job_completed(at=make.at(10))
    waiting = [make.job_queued(job_id=f"job-w{number}", priority="low") for number in range(2)]
    known.follow(make.entries(*story, *waiting))
    return known


def test_one_job_more_than_may_wait_is_told_its_place_and_when_it_would_begin() -> None:
    admission = Admission(known_jobs(), Log(0.0).fill, 2)

    with pytest.raises(RefusedError) as low, admission.admitting(make.MODEL, "chat", "low"):
        pass
    with pytest.raises(RefusedError) as high, admission.admitting(make.MODEL, "embed", "high"):
        pass
    with admission.admitting("local/other", "chat", "low"):
        pass

    waits = f"2 jobs wait for '{make.MODEL}', and 2 may; this would be number"
    assert str(low.value) == f"{waits} 3 in turn and begin in about 20 s."
    assert str(high.value) == f"{waits} 1 in turn."
    assert low.value.failure.retry_after is not None


def test_jobs_that_are_being_recorded_count() -> None:
    admission = Admission(known_jobs(), Log(0.0).fill, 3)

    with admission.admitting(make.MODEL, "chat", "low"):
        with pytest.raises(RefusedError, match="3 jobs wait"), admission.admitting(make.MODEL, "chat", "low"):
            pass
    with admission.admitting(make.MODEL, "chat", "low"):
        pass


async def test_log_is_looked_at_seldom_and_refuses_when_it_is_nearly_full() -> None:
    roomy, full = Log(0.9), Log(0.91)
    admissions = [Admission(known_jobs(), log.fill, 3) for log in (roomy, full)]

    for _ in range(3):
        await admissions[0].check_storage()
        with pytest.raises(RefusedError) as refused:
            await admissions[1].check_storage()

    assert refused.value.code == "storage_full"
    assert roomy.looks <= 2
