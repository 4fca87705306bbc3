"""The projection of the log into DuckDB."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from eventlog.events import JobEvent, Recorded, Unknown, decode, encode
from eventlog.history import History, OutdatedError
from eventlog.history_query import Page, PageQuery, events_of, find_job, page
from eventlog.job import Job, fold
from tests.support import make

STORY = (
    make.job_queued(job_id="job-a", metadata={"ü": [1, None]}),
    make.job_queued(job_id="job-b", at=make.at(1), model="other"),
    make.job_started(job_id="job-a", at=make.at(2)),
    make.request_finished(first=None),
    make.job_completed(job_id="job-a", at=make.at(3)),
    make.job_failed(job_id="job-b", at=make.at(4), reason="refused", error="no \x00 'way'"),
)
text = some.text(max_size=5)
job_ids = some.sampled_from(["job-a", "job-b", "job-ü"])
events = some.one_of(
    some.builds(make.job_queued, job_id=job_ids, model=text, metadata=some.dictionaries(text, text, max_size=2)),
    some.builds(make.job_started, job_id=job_ids, attempt=some.integers(0, 9)),
    some.builds(make.job_retry_scheduled, job_id=job_ids, error=text),
    some.builds(make.job_cancel_requested, job_id=job_ids),
    some.builds(make.job_completed, job_id=job_ids),
    some.builds(make.job_failed, job_id=job_ids, error=text),
    some.builds(make.job_cancelled, job_id=job_ids),
    some.builds(make.request_finished),
    some.builds(make.response_stored, model=text, job_id=job_ids),
    some.builds(make.response_deleted),
    some.builds(Unknown, kind=text, raw=some.binary(max_size=5)),
)


def page_of(history: History, **query: Any) -> Page:
    with history.cursor() as cursor:
        return page(cursor, PageQuery(**query))


def jobs(history: History) -> dict[str, Job]:
    return {job.job_id: job for job in page_of(history, limit=1000).jobs}


def job_of(history: History, job_id: str) -> Job | None:
    with history.cursor() as cursor:
        return find_job(cursor, job_id)


def told_of(history: History, job_id: str) -> list[bytes]:
    with history.cursor() as cursor:
        return events_of(cursor, job_id)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path / "history.duckdb")
    yield history
    history.close()


def test_events_ingested_twice_count_once(history: History) -> None:
    entries = make.entries(*STORY)

    first, again = history.ingest(entries), history.ingest(entries)
    overlap = history.ingest([*entries[3:], *make.entries(make.job_cancelled(), first=7)])

    assert (first, again, overlap) == (6, 0, 1)
    assert history.checkpoint == 7
    assert len(told_of(history, "job-a")) == 3


@given(some.lists(events, max_size=25), some.lists(some.integers(0, 25), max_size=4))
@settings(max_examples=15)
def test_history_rebuilt_equals_history_built_bit_by_bit_and_the_fold(story: list[JobEvent], cuts: list[int]) -> None:
    entries = make.entries(*story)
    bits, whole = History(Path(":memory:")), History(Path(":memory:"))
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(entries)], strict=True):
        bits.ingest(entries[start:end])

    whole.ingest(entries)

    ids = {"job-a", "job-b", "job-ü"}
    folded = {job_id: fold(event for event in story if getattr(event, "job_id", "") == job_id) for job_id in ids}
    assert jobs(bits) == jobs(whole) == {job_id: job for job_id, job in folded.items() if job}
    assert [told_of(bits, job_id) for job_id in ids] == [told_of(whole, job_id) for job_id in ids]
    assert bits.checkpoint == whole.checkpoint == len(entries)
    bits.close()
    whole.close()


def test_events_of_a_job_are_as_recorded_in_order(history: History) -> None:
    history.ingest(make.entries(*STORY))

    assert told_of(history, "job-a") == [encode(STORY[0]), encode(STORY[2]), encode(STORY[4])]
    assert told_of(history, "job-x") == []


def test_unknown_events_are_kept_and_passed_over(history: History) -> None:
    strange = Unknown(kind="job.danced", raw=b'{"type":"job.danced"}')
    unreadable = Unknown(kind="", raw=b"\xff")

    new = history.ingest(make.entries(make.job_queued(), strange, unreadable))

    kept = history._db.execute("SELECT type, body FROM events WHERE seq > 1 ORDER BY seq").fetchall()
    assert new == 3
    assert history.checkpoint == 3
    assert kept == [("job.danced", '{"type":"job.danced"}'), ("", "\ufffd")]


def test_job_whose_beginning_the_log_has_forgotten_is_passed_over(history: History) -> None:
    history.ingest(make.entries(make.job_started(), make.job_completed(), first=90))

    assert job_of(history, make.JOB_ID) is None
    assert history.checkpoint == 91


def test_job_comes_back_as_the_fold_has_it(history: History) -> None:
    history.ingest(make.entries(*STORY))

    assert job_of(history, "job-a") == fold([STORY[0], STORY[2], STORY[4]])
    assert job_of(history, "job-b") == fold([STORY[1], STORY[5]])


@pytest.mark.parametrize(
    ("query", "ids", "total"),
    [
        ({}, ["job-3", "job-2", "job-1", "job-0"], 4),
        ({"limit": 2}, ["job-3", "job-2"], 4),
        ({"limit": 2, "offset": 3}, ["job-0"], 4),
        ({"offset": 9}, [], 4),
        ({"status": "queued"}, ["job-3", "job-2", "job-0"], 3),
        ({"status": "completed"}, ["job-1"], 1),
        ({"model": "m1"}, ["job-3", "job-1"], 2),
        ({"model": "m1", "status": "queued"}, ["job-3"], 1),
        ({"model": "m1' OR 1=1 --"}, [], 0),
    ],
)
def test_page_holds_what_was_asked_for_newest_first(
    history: History, query: dict[str, Any], ids: list[str], total: int
) -> None:
    queued = [make.job_queued(job_id=f"job-{n}", at=make.at(n), model=f"m{n % 2}") for n in range(4)]
    history.ingest(make.entries(*queued, make.job_completed(job_id="job-1")))

    found = page_of(history, **query)

    assert [job.job_id for job in found.jobs] == ids
    assert found.total == total


def test_large_batch_with_rare_values_goes_in(history: History) -> None:
    queued = [make.job_queued(job_id=f"job-{n}") for n in range(3000)]

    history.ingest(make.entries(*queued, make.job_failed(job_id="job-1777", error="rare")))

    failed = page_of(history, status="failed")
    assert [(job.job_id, job.error) for job in failed.jobs] == [("job-1777", "rare")]


def test_what_the_log_has_forgotten_is_forgotten(history: History) -> None:
    history.ingest(make.entries(make.job_queued(job_id="old"), make.job_queued(job_id="new", at=make.at(10))))

    history.forget(before=make.at(5))

    assert set(jobs(history)) == {"new"}
    assert told_of(history, "old") == []
    assert history.checkpoint == 2


def test_history_is_there_again_after_it_was_closed(tmp_path: Path) -> None:
    history = History(tmp_path / "history.duckdb")
    history.ingest(make.entries(*STORY))
    before = jobs(history)
    history.close()

    again = History(tmp_path / "history.duckdb")

    assert jobs(again) == before
    assert again.checkpoint == 6
    again.close()


@pytest.mark.parametrize("before", ["DROP TABLE schema_version", "UPDATE schema_version SET version = 99"])
def test_file_with_the_tables_of_another_version_is_not_opened(tmp_path: Path, before: str) -> None:
    history = History(tmp_path / "history.duckdb")
    history._db.execute(before)
    history.close()

    with pytest.raises(OutdatedError):
        History(tmp_path / "history.duckdb")


def test_cached_tokens_of_requests_can_be_queried(history: History) -> None:
    history.ingest(make.entries(make.request_finished(cached_tokens=7)))

    assert history._one("SELECT sum(cached_tokens) FROM requests") == (7,)


def test_what_an_event_of_rag_is_about_can_be_queried(history: History) -> None:
    history.ingest(make.entries(make.collection_created(), make.document_stored()))

    assert history._one("SELECT list(subject_id ORDER BY seq) FROM events") == (["default", "doc-1"],)


def test_number_that_no_table_holds_makes_an_event_unknown_and_stops_nothing(history: History) -> None:
    raw = encode(make.job_started(attempt=2**40))
    events = [*make.entries(make.job_queued()), Recorded(2, decode(raw), raw)]

    assert history.ingest(events) == 2
    assert history.checkpoint == 2
