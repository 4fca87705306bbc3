"""Jobs by page: conditions, order and cursors."""

import base64
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from eventlog.history import History
from eventlog.history_query import CursorError, Page, PageQuery, page
from tests.support import make

EAST, WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))


@pytest.fixture
def history() -> Iterator[History]:
    history = History(Path(":memory:"))
    yield history
    history.close()


def page_of(history: History, **query: Any) -> Page:
    with history.cursor() as cursor:
        return page(cursor, PageQuery(**query))


def ids_of(history: History, **query: Any) -> list[str]:
    return [job.job_id for job in page_of(history, **query).jobs]


@pytest.mark.parametrize(
    ("metadata", "ids"),
    [
        ({"user": "ann"}, ["job-1"]),
        ({"user": "ann", "n": "5"}, ["job-1"]),
        ({"user": "ann", "n": "6"}, []),
        ({"flag": "true"}, ["job-1"]),
        ({"none": "null"}, []),
        ({"a/b~c": "odd"}, ["job-1"]),
        ({'"q"': "quoted"}, ["job-1"]),
        ({"$.user": "ann"}, []),
        ({"deep": '{"user":"ann"}'}, ["job-1"]),
        ({"user": "' OR TRUE --"}, []),
    ],
)
def test_metadata_is_compared_as_text(history: History, metadata: dict[str, str], ids: list[str]) -> None:
    said = {"user": "ann", "n": 5, "flag": True, "none": None, "a/b~c": "odd", '"q"': "quoted", "deep": {"user": "ann"}}
    history.ingest(make.entries(make.job_queued(job_id="job-1", metadata=said), make.job_queued(job_id="job-2")))

    assert ids_of(history, metadata=metadata) == ids


def test_times_of_acceptance_are_a_condition(history: History) -> None:
    history.ingest(make.entries(*(make.job_queued(job_id=f"job-{n}", at=make.at(n)) for n in range(5))))

    assert ids_of(history, created_after=make.at(1), created_before=make.at(4)) == ["job-3", "job-2"]


def ended_in_reverse(history: History) -> None:
    """Six jobs; the first three have ended, the last of them first, two of them at once."""
    history.ingest(
        make.entries(
            *(make.job_queued(job_id=f"job-{n}", at=make.at(n)) for n in range(6)),
            make.job_completed(job_id="job-2", at=make.at(10)),
            make.job_cancelled(job_id="job-1", at=make.at(11)),
            make.job_failed(job_id="job-0", at=make.at(11)),
        )
    )


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("created_at", "012345"),
        ("-created_at", "543210"),
        ("completed_at", "201345"),
        ("-completed_at", "102543"),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 4, 6])
def test_cursors_lead_through_all_jobs_in_order(history: History, sort: str, order: str, limit: int) -> None:
    ended_in_reverse(history)
    found, cursor = list[str](), None

    while not found or cursor:
        one = page_of(history, sort=sort, limit=limit, cursor=cursor)
        found += [job.job_id for job in one.jobs]
        cursor = one.next_cursor
        assert one.total == 6

    assert "".join(job_id.removeprefix("job-") for job_id in found) == order


def test_page_has_no_more_jobs_than_a_message_and_its_cursor_leads_on(history: History) -> None:
    large = {"x": "x" * 16_000}
    history.ingest(make.entries(*(make.job_queued(job_id=f"job-{n:02}", metadata=large) for n in range(40))))
    first = page_of(history, sort="created_at")
    rest = page_of(history, sort="created_at", cursor=first.next_cursor)

    assert len(first.jobs) == 31
    assert [job.job_id for job in (*first.jobs, *rest.jobs)] == [f"job-{n:02}" for n in range(40)]
    assert rest.next_cursor is None


def test_jobs_that_come_meanwhile_move_none_to_another_page(history: History) -> None:
    ended_in_reverse(history)
    first = page_of(history, limit=3)

    history.ingest(make.entries(make.job_queued(job_id="job-9", at=make.at(9)), first=10))

    assert ids_of(history, limit=9, cursor=first.next_cursor) == ["job-2", "job-1", "job-0"]


FAR_AWAY = base64.b64encode(b'["-created_at",9000000000000000000,"job-1"]').decode()


@given(some.dictionaries(some.text(), some.text(), max_size=3), some.datetimes(timezones=some.timezones()))
@settings(max_examples=15)
def test_no_condition_raises(metadata: dict[str, str], at: datetime) -> None:
    history = History(Path(":memory:"))
    history.ingest(make.entries(make.job_queued(metadata=metadata)))

    assert ids_of(history, metadata=metadata) == [make.JOB_ID]
    assert page_of(history, created_after=at, created_before=at).total == 0
    history.close()


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=EAST), datetime.max.replace(tzinfo=WEST)])
def test_moments_at_the_ends_of_time_are_conditions(history: History, at: datetime) -> None:
    assert page_of(history, created_after=at, created_before=at).total == 0


@pytest.mark.parametrize("cursor", ["", "x", "é", "e30", "WzEsMl0", "W10", "a" * 5000, FAR_AWAY])
def test_cursor_that_was_not_given_out_is_refused(history: History, cursor: str) -> None:
    with pytest.raises(CursorError, match="not given out"):
        page_of(history, cursor=cursor)


def test_cursor_of_another_order_is_refused(history: History) -> None:
    ended_in_reverse(history)
    cursor = page_of(history, limit=1).next_cursor

    with pytest.raises(CursorError, match="sorted by -created_at, not created_at"):
        page_of(history, sort="created_at", cursor=cursor)
