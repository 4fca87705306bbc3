"""In which order queues are asked."""

import pytest

from actors.priorities import PRIORITIES, Queues, pull_order
from eventlog.events import Priority


def test_every_pull_asks_every_queue_once() -> None:
    assert all(sorted(pull_order(pull)) == sorted(PRIORITIES) for pull in range(1, 33))


def test_seven_of_eight_pulls_begin_with_the_highest() -> None:
    firsts = [pull_order(pull)[0] for pull in range(1, 17)]

    assert firsts == ["high"] * 7 + ["low"] + ["high"] * 7 + ["normal"]


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("before", range(16))
def test_job_of_any_priority_is_taken_within_sixteen_pulls_although_the_others_never_run_dry(
    priority: Priority, before: int
) -> None:
    queues = {each: [each] * 100 for each in PRIORITIES}
    queues[priority] = ["wanted"]

    taken = [_take(queues, pull) for pull in range(before + 1, before + 17)]

    assert "wanted" in taken


def _take(queues: dict[Priority, list[str]], pull: int) -> str:
    return next(queues[priority].pop() for priority in pull_order(pull) if queues[priority])


def test_queue_that_was_asked_is_left_out_until_it_may_hold_jobs_again() -> None:
    queues = Queues()
    queues.ask("high")
    queues.ask("low")
    without = queues.next()
    queues.stock("low")

    assert without == ("normal",)
    assert queues.next() == ("normal", "low")
