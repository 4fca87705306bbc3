"""What the history adds up to: attempts, models, deliveries and the views."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from bus.ids import new_id
from eventlog.events import Event, ModelEvent, ModelLoading, ModelLost, ModelReady, ModelRefused, ModelUnloaded
from eventlog.history import History
from eventlog.history_query import StatsQuery, Table, stats
from eventlog.history_schema import VIEWS
from eventlog.webhook_events import (
    WebhookAbandoned,
    WebhookDelivered,
    WebhookEvent,
    WebhookFailed,
    WebhookScheduled,
)
from tests.support import make


@pytest.fixture
def history() -> Iterator[History]:
    history = History(Path(":memory:"))
    yield history
    history.close()


def rows_of(history: History, query: str) -> list[tuple[Any, ...]]:
    with history.cursor() as cursor:
        return cursor.execute(query).fetchall()


def view_of(history: History, view: str, **query: Any) -> Table:
    with history.cursor() as cursor:
        return stats(cursor, StatsQuery(view=view, **query))


def webhook(kind: type[Any], **fields: Any) -> WebhookEvent:
    values = {"id": new_id(), "at": make.AT, "delivery_id": "dlv-1"}
    event: WebhookEvent = kind(**values | fields)
    return event


def scheduled(delivery_id: str = "dlv-1") -> WebhookEvent:
    told = {"event": "job.completed", "seq": 3, "job_id": "job-1", "url": "http://x/"}
    return webhook(WebhookScheduled, delivery_id=delivery_id, **told)


def model_event(kind: type[Any], **fields: Any) -> ModelEvent:
    event: ModelEvent = kind(**{"id": new_id(), "at": make.AT, "model": "m", "instance": "slot-1"} | fields)
    return event


ids = some.sampled_from(["job-a", "job-b"])
numbers = some.integers(1, 3)
attempt_events = some.one_of(
    some.builds(make.job_queued, job_id=ids),
    some.builds(make.job_started, job_id=ids, attempt=numbers),
    some.builds(make.job_retry_scheduled, job_id=ids, attempt=numbers),
    some.builds(make.job_completed, job_id=ids, attempt=numbers),
    some.builds(make.job_failed, job_id=ids),
    some.builds(make.job_cancelled, job_id=ids),
    some.builds(scheduled),
    some.builds(webhook, some.just(WebhookFailed), attempt=numbers, error=some.just("no"), delay=some.just(1.0)),
    some.builds(webhook, some.just(WebhookDelivered), attempt=numbers, status=some.just(200), seconds=some.just(0.1)),
    some.builds(webhook, some.just(WebhookAbandoned), attempt=numbers, error=some.just("never")),
)


@given(some.lists(attempt_events, max_size=25), some.lists(some.integers(0, 25), max_size=4))
@settings(max_examples=15)
def test_attempts_and_deliveries_are_the_same_however_the_events_are_cut(story: list[Event], cuts: list[int]) -> None:
    entries = make.entries(*story)
    bits, whole = History(Path(":memory:")), History(Path(":memory:"))
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(entries)], strict=True):
        bits.ingest(entries[start:end])

    whole.ingest(entries)

    for table in ("attempts", "deliveries"):
        assert rows_of(bits, f"FROM {table} ORDER BY ALL") == rows_of(whole, f"FROM {table} ORDER BY ALL")
    bits.close()
    whole.close()


@pytest.mark.parametrize("one_by_one", [True, False], ids=["one by one", "together"])
def test_every_attempt_has_a_row_that_tells_how_it_went(history: History, one_by_one: bool) -> None:
    story = make.entries(
        make.job_queued(),
        make.job_started(attempt=1, at=make.at(1), actor="a", revision="r1"),
        make.job_retry_scheduled(attempt=1, at=make.at(2), error="busy"),
        make.job_started(attempt=2, at=make.at(3), actor="b"),
        make.job_started(attempt=3, at=make.at(9), actor="c"),
        make.job_failed(at=make.at(10), error="broken"),
        make.job_completed(at=make.at(11), attempt=3),
    )

    for batch in [[entry] for entry in story] if one_by_one else [story]:
        history.ingest(batch)

    found = rows_of(
        history, "SELECT attempt, actor, revision, outcome, error, epoch(ended_at - started_at) FROM attempts"
    )
    assert sorted(found) == [
        (1, "a", "r1", "retried", "busy", 1.0),
        (2, "b", None, "lost", None, 6.0),
        (3, "c", None, "failed", "broken", 1.0),
    ]


def test_every_event_of_a_model_has_a_row(history: History) -> None:
    history.ingest(
        make.entries(
            model_event(ModelLoading, why="asked", estimated_bytes=5),
            model_event(ModelReady, seconds=1.5, size_bytes=4, memory_bytes=6),
            model_event(ModelUnloaded, why="idle", seconds=0.5, freed_bytes=2**70),
            model_event(ModelLost, why="killed"),
            model_event(ModelRefused, why="too large"),
        )
    )

    assert rows_of(history, "SELECT what, seconds, bytes, why FROM models") == [
        ("loading", None, 5, "asked"),
        ("ready", 1.5, 6, None),
        ("unloaded", 0.5, None, "idle"),
        ("lost", None, None, "killed"),
        ("refused", None, None, "too large"),
    ]


def test_every_delivery_of_a_webhook_has_a_row(history: History) -> None:
    failed = {"attempt": 1, "error": "no answer", "delay": 5.0}
    history.ingest(make.entries(scheduled(), webhook(WebhookFailed, **failed), scheduled("dlv-2"), scheduled("dlv-3")))
    ends = (
        webhook(WebhookDelivered, attempt=2, status=204, seconds=0.1),
        webhook(WebhookAbandoned, delivery_id="dlv-2", attempt=9, error="gone", status=410),
    )

    history.ingest(make.entries(*ends, first=5))

    assert rows_of(
        history,
        "SELECT delivery_id, event, status, attempts, http_status, last_error, ended_at IS NULL FROM deliveries"
        " ORDER BY delivery_id",
    ) == [
        ("dlv-1", "job.completed", "delivered", 2, 204, "no answer", False),
        ("dlv-2", "job.completed", "abandoned", 9, 410, "gone", False),
        ("dlv-3", "job.completed", "pending", 0, None, None, True),
    ]


def test_what_no_column_can_hold_stops_nothing(history: History) -> None:
    far = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
    history.ingest(
        make.entries(
            make.job_queued(at=far, run_timeout=1e300, seed=2**70, max_attempts=2**70, expires_at=far),
            make.request_finished(at=far, total=1e300),
            scheduled(),
            webhook(WebhookFailed, attempt=2**70, error="no", delay=1.0, status=-(2**70)),
            webhook(WebhookScheduled, delivery_id="dlv-2", event="job.failed", seq=2**70, job_id="job-1", url="x"),
        )
    )

    assert rows_of(history, "SELECT seed, max_attempts, created_at FROM jobs") == [(None, None, datetime.min)]  # noqa: DTZ901 - as tables have it
    assert rows_of(history, "SELECT attempts, http_status FROM deliveries ORDER BY delivery_id") == [
        (None, None),
        (0, None),
    ]
    assert len(view_of(history, "usage").rows) == 1


def test_what_is_old_is_forgotten_in_every_table(history: History) -> None:
    old = (
        make.job_queued(),
        make.job_started(),
        make.request_finished(),
        model_event(ModelLost, why="killed"),
        scheduled(),
    )
    history.ingest(make.entries(*old))
    tables = ("events", "jobs", "attempts", "requests", "models", "deliveries")
    before = {table: len(rows_of(history, f"FROM {table}")) for table in tables}

    history.forget(before=make.at(1))

    assert before == {"events": 5, "jobs": 1, "attempts": 1, "requests": 1, "models": 1, "deliveries": 1}
    assert [rows_of(history, f"FROM {table}") for table in tables] == [[]] * 6


def test_throughput_counts_what_ended_in_each_hour(history: History) -> None:
    later = make.AT + timedelta(hours=2)
    history.ingest(
        make.entries(
            *(make.job_queued(job_id=f"job-{n}") for n in range(3)),
            make.job_completed(job_id="job-0"),
            make.job_failed(job_id="job-1", at=later),
            make.request_finished(outcome="cancelled"),
            make.request_finished(model="other", at=later),
        )
    )

    assert view_of(history, "throughput").rows == (
        (datetime(2026, 1, 2, 5, tzinfo=UTC), make.MODEL, 1, 0, 0, 0),
        (datetime(2026, 1, 2, 5, tzinfo=UTC), "other", 0, 0, 1, 1),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), make.MODEL, 1, 1, 1, 0),
    )


def test_waiting_times_and_speeds_have_percentiles(history: History) -> None:
    numbers = range(101)
    history.ingest(
        make.entries(
            *(make.job_queued(job_id=f"job-{n}") for n in numbers),
            *(make.job_started(job_id=f"job-{n}", at=make.at(n)) for n in numbers),
            *(make.request_finished(first=n / 100, total=n / 100 + 2, completion_tokens=21) for n in numbers),
        )
    )

    [waited] = view_of(history, "queue_time").rows
    [first] = view_of(history, "first_token").rows
    [speed] = view_of(history, "tokens_per_second").rows

    assert waited[:4] == (date(2026, 1, 2), make.MODEL, "normal", 101)
    assert waited[4:] == pytest.approx((50, 95, 99))
    assert first[:4] == (date(2026, 1, 2), make.MODEL, "chat", 101)
    assert first[4:] == pytest.approx((0.5, 0.95, 0.99))
    assert speed[:4] == (date(2026, 1, 2), make.MODEL, 101, 2121)
    assert speed[4:] == pytest.approx((10, 10, 10))


def test_failures_are_counted_by_their_cause(history: History) -> None:
    history.ingest(
        make.entries(
            make.job_queued(),
            make.job_failed(reason="expired"),
            make.request_finished(),
            make.request_finished(outcome="queue_full"),
            make.request_finished(outcome="queue_full"),
        )
    )

    assert sorted(row[2:] for row in view_of(history, "failures").rows) == [
        ("job", "expired", 1),
        ("request", "queue_full", 2),
    ]


def test_usage_is_by_key_and_model(history: History) -> None:
    used = {"prompt_tokens": 10, "completion_tokens": 2, "cached_tokens": 1, "total": 0.5}
    history.ingest(make.entries(*(make.request_finished(key=key, **used) for key in ("key-a", "key-a", None))))

    everybody = view_of(history, "usage").rows
    one = view_of(history, "usage", key="anonymous", model=make.MODEL)

    assert [row[1:] for row in everybody] == [
        ("anonymous", make.MODEL, 1, 10, 2, 1, 0.5),
        ("key-a", make.MODEL, 2, 20, 4, 2, 1.0),
    ]
    assert one.rows == everybody[:1]


@pytest.mark.parametrize("view", VIEWS)
def test_view_of_an_empty_history_has_no_rows(history: History, view: str) -> None:
    assert view_of(history, view).rows == ()


@pytest.mark.parametrize(
    ("query", "hours"),
    [
        ({}, [7, 6, 5, 4, 3]),
        ({"since": make.AT + timedelta(hours=3)}, [7, 6]),
        ({"until": make.AT + timedelta(hours=1)}, [4, 3]),
        ({"since": make.AT + timedelta(hours=1), "until": make.AT + timedelta(hours=1)}, [4]),
        ({"model": "other"}, []),
        ({"model": "' OR TRUE --"}, []),
        ({"limit": 2}, [7, 6]),
    ],
)
def test_hours_that_are_partly_inside_are_told(history: History, query: dict[str, Any], hours: list[int]) -> None:
    history.ingest(make.entries(*(make.request_finished(at=make.AT + timedelta(hours=n)) for n in range(5))))

    found = view_of(history, "throughput", **query)

    assert [row[0].hour for row in found.rows] == hours
    assert found.truncated == ("limit" in query)
