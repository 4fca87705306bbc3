"""The fold of a batch and its rules, and that of a file."""

from itertools import permutations

import pytest

from eventlog.batch import (
    Batch,
    BatchStatus,
    decide_cancel,
    decide_end,
    decide_fail,
    decide_finalizing,
    decide_start,
    fold,
)
from eventlog.batch_events import BatchEvent, LineError
from eventlog.events import Unknown
from eventlog.file import fold as fold_file
from eventlog.job import Stamp
from tests.support import make

LATE = Stamp("late", make.at(25 * 3600))
SOON = Stamp("soon", make.at(60))
CREATED, STARTED, WISH = make.batch_created(), make.batch_started(), make.batch_cancel_requested()
FINALIZING, ENDED, FAILED = make.batch_finalizing(), make.batch_ended(), make.batch_failed()
EVENTS = (CREATED, STARTED, WISH, FINALIZING, ENDED, FAILED)


def batch(*events: BatchEvent) -> Batch:
    folded = fold((CREATED, *events))
    assert folded is not None
    return folded


@pytest.mark.parametrize(
    ("events", "status", "times"),
    [
        ((), "validating", ()),
        ((FAILED,), "failed", ("failed_at",)),
        ((STARTED,), "in_progress", ("in_progress_at",)),
        ((STARTED, FINALIZING), "finalizing", ("in_progress_at", "finalizing_at")),
        ((STARTED, FINALIZING, ENDED), "completed", ("in_progress_at", "finalizing_at", "completed_at")),
        (
            (STARTED, make.batch_finalizing(is_expired=True), ENDED),
            "expired",
            ("in_progress_at", "finalizing_at", "expired_at"),
        ),
        ((WISH,), "cancelling", ("cancelling_at",)),
        ((WISH, ENDED), "cancelled", ("cancelling_at", "cancelled_at")),
        ((STARTED, WISH, FINALIZING), "cancelling", ("in_progress_at", "cancelling_at", "finalizing_at")),
        (
            (STARTED, WISH, FINALIZING, ENDED),
            "cancelled",
            ("in_progress_at", "cancelling_at", "finalizing_at", "cancelled_at"),
        ),
        # It was cancelled while its plan was on the way.
        ((WISH, STARTED), "cancelling", ("in_progress_at", "cancelling_at")),
    ],
)
def test_status_and_times_follow_from_the_events(
    events: tuple[BatchEvent, ...], status: BatchStatus, times: tuple[str, ...]
) -> None:
    folded = batch(*events)

    own = {"created_at", "expires_at", *times}
    assert folded.status == status
    assert {name for name in Batch.__struct_fields__ if name.endswith("_at") and getattr(folded, name)} == own


def test_batch_has_what_its_events_say() -> None:
    folded = batch(STARTED, FINALIZING, ENDED)

    assert (folded.total, folded.completed, folded.failed) == (3, 2, 1)
    assert (folded.output_file_id, folded.error_file_id) == ("file-2", "file-3")
    assert batch(FAILED).errors == (LineError(code="invalid_json_line", message="This is no JSON.", line=7),)


def test_no_order_of_events_raises_and_an_end_is_one() -> None:
    for order in permutations(EVENTS):
        known = [fold(order[: count + 1]) for count in range(len(order))]
        ends = [each for each in known if each is not None and each.is_final]
        assert all(each == ends[0] for each in ends)
    assert fold([Unknown(kind="batch.paused", raw=b"{}")]) is None


@pytest.mark.parametrize(
    ("events", "may"),
    [
        ((), {"start", "fail", "cancel"}),
        ((STARTED,), {"cancel", "finalize"}),
        ((STARTED, WISH), {"finalize"}),
        ((WISH,), {"end"}),
        ((STARTED, FINALIZING), {"end"}),
        ((STARTED, WISH, FINALIZING), {"end"}),
        ((STARTED, FINALIZING, ENDED), set()),
        ((FAILED,), set()),
    ],
)
def test_each_event_has_its_time(events: tuple[BatchEvent, ...], may: set[str]) -> None:
    now = batch(*events)
    decided = {
        "start": decide_start(now, SOON, plan_blob="1" * 64, total=3),
        "fail": decide_fail(now, SOON, ()),
        "cancel": decide_cancel(now, SOON),
        "finalize": decide_finalizing(now, SOON, outcomes_blob="2" * 64, completed=2, failed=1),
        "end": decide_end(now, SOON),
    }

    assert {name for name, event in decided.items() if event is not None} == may


@pytest.mark.parametrize(
    ("events", "stamp", "failed", "is_expired"),
    [
        ((STARTED,), SOON, 0, False),
        ((STARTED,), LATE, 0, True),
        # All was done all the same.
        ((STARTED,), LATE, 1, False),
        ((STARTED, WISH), LATE, 0, False),
    ],
)
def test_batch_has_expired_if_its_time_was_over_before_all_was_done(
    events: tuple[BatchEvent, ...], stamp: Stamp, failed: int, is_expired: bool
) -> None:
    event = decide_finalizing(batch(*events), stamp, outcomes_blob="2" * 64, completed=2, failed=failed)

    assert event is not None
    assert event.is_expired is is_expired


def test_deleted_file_does_not_come_back() -> None:
    stored, deleted = make.file_stored(), make.file_deleted()

    assert fold_file([stored]) == stored
    assert fold_file([stored, make.file_stored(filename="another")]) == stored
    assert fold_file([stored, deleted]) is None
    assert fold_file([stored, deleted, stored]) is None
    assert fold_file([]) is None
