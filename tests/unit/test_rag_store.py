"""The projection of the log of documents."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from actors.rag import bm25, store_query, store_rows
from actors.rag.change import Change
from actors.rag.contents import Chunk, Contents
from actors.rag.filters import where
from actors.rag.store import Store
from eventlog.events import Unknown
from eventlog.history import OutdatedError
from tests.support import make, rag

WORDS = ("cat", "dog", "mat", "sat", "running", "the")
names = some.sampled_from(["one", "two"])
ids = some.sampled_from(["a", "b", "c"])
texts = some.lists(some.lists(some.sampled_from(WORDS), max_size=6).map(" ".join), max_size=4)
events = some.one_of(
    some.tuples(some.builds(rag.created, names), some.none()),
    some.tuples(some.builds(rag.stored, ids, collection=names), texts.map(lambda each: rag.contents(*each))),
    some.tuples(some.builds(rag.stored, ids, collection=names), texts.map(lambda each: rag.contents(*each))),
    some.tuples(some.builds(rag.stored, ids, collection=names), some.none()),
    some.tuples(some.builds(rag.deleted, ids, names), some.none()),
    some.tuples(some.builds(rag.dropped, names), some.none()),
    some.tuples(some.builds(Unknown, kind=some.just("?"), raw=some.just(b"{}")), some.none()),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "rag.duckdb")
    yield store
    store.close()


def ask(store: Store, question: Any, *given: Any, **named: Any) -> Any:
    with store.cursor() as cursor:
        return question(cursor, *given, **named)


def all_texts(store: Store, collection: str) -> list[tuple[str, str]]:
    labels = ask(store, store_query.labels_of, collection, None)
    rows = ask(store, store_rows.rows_of, labels)
    assert set(rows) == set(labels)
    return sorted((row.chunk_id, row.text) for row in rows.values())


def folded(story: Sequence[Any]) -> dict[str, dict[str, Contents]]:
    """Return what is in each collection in the end."""
    found: dict[str, dict[str, Contents]] = {}
    for entry, blob in story:
        kind, collection = type(entry.event).__name__, getattr(entry.event, "collection", "")
        documents = found.get(collection, {})
        if kind == "CollectionCreated":
            found.setdefault(collection, {})
        elif kind == "CollectionDeleted":
            found.pop(collection, None)
        elif kind in {"DocumentStored", "DocumentDeleted"}:
            documents.pop(entry.event.document_id, None)
            if blob is not None:
                documents[entry.event.document_id] = blob
    return found


def scores(documents: dict[str, Contents], query: str) -> dict[str, float]:
    """Return the chunks that have a term of `query`, each with its BM25 as the textbook computes it."""
    chunks = {
        f"{name}_chunk_{i}": bm25.tokens(each.text[chunk.start : chunk.end])
        for name, each in documents.items()
        for i, chunk in enumerate(each.chunks)
    }
    average = sum(map(len, chunks.values())) / max(len(chunks), 1)
    found: Counter[str] = Counter()
    for term in bm25.tokens(query):
        having = [name for name, terms in chunks.items() if term in terms]
        idf = math.log(1 + (len(chunks) - len(having) + 0.5) / (len(having) + 0.5))
        for name in having:
            occurrences, length = chunks[name].count(term), len(chunks[name])
            found[name] += idf * occurrences * 2.2 / (occurrences + 1.2 * (0.25 + 0.75 * length / average))
    return dict(found)


def followed(indexes: dict[str, dict[int, Any]], changes: Sequence[Change]) -> None:
    """Do what `changes` say to indexes, which are vectors by label."""
    for change in changes:
        if change.is_deleted:
            indexes.pop(change.collection, None)
        index = indexes.setdefault(change.collection, {})
        index |= dict(zip(change.labels.tolist(), change.vectors, strict=True))
        for label in change.gone.tolist():
            del index[label]


@given(some.lists(events, max_size=20), some.lists(some.integers(0, 20), max_size=4))
@settings(max_examples=12)
def test_however_the_log_comes_in_batches_the_store_has_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, story: list[Any], cuts: list[int]
) -> None:
    entries = rag.entries((rag.created("one"), None), *story)
    ends = [0, *sorted(cuts), len(entries)]
    store = Store(tmp_path_factory.mktemp("rag") / "rag.duckdb", most_recent=5)
    indexes: dict[str, dict[int, Any]] = {}

    for start, end in pairwise(ends):
        followed(indexes, store.apply(entries[max(start - 2, 0) : end]).changes)

    expected = folded(entries)
    assert [each.collection for each in ask(store, store_query.collections)] == sorted(expected)
    for name, documents in expected.items():
        texts = [
            (f"{document}_chunk_{i}", each.text[chunk.start : chunk.end])
            for document, each in documents.items()
            for i, chunk in enumerate(each.chunks)
        ]
        assert all_texts(store, name) == sorted(texts)
        labels, vectors = ask(store, store_query.vectors_of, name, -1, 1000)
        index = indexes.get(name, {})
        assert labels.tolist() == sorted(index)
        assert all(np.array_equal(index[label], vector) for label, vector in zip(labels.tolist(), vectors, strict=True))
        found = ask(store, bm25.search, name, "the cats run, cat", 100, None)
        rows = ask(store, store_rows.rows_of, [each.label for each in found])
        assert {rows[each.label].chunk_id: each.score for each in found} == pytest.approx(
            scores(documents, "the cats run, cat")
        )
    store.close()


def test_a_chunk_is_told_with_all_that_is_known_of_it(store: Store) -> None:
    long = "ü𝔘 " * 5000
    chunk = Chunk(
        start=9000, end=9010, tokens=3, parent_start=8000, parent_end=12_345, pages=(2, 3), headings=("A", "ü")
    )
    about = {"metadata": {"year": 2020, "tags": ["a", None]}, "pages": 7}
    blob = rag.contents("x", text=long, chunks=(chunk,), **about)
    store.apply(rag.entries(rag.created(name="shown"), (rag.stored("a/b"), blob)))

    row = ask(store, store_rows.chunk, "default", "a/b_chunk_0")
    (again,) = ask(store, store_rows.rows_of, [row.label]).values()
    card = ask(store, store_query.document, "default", "a/b")

    assert (row.text, row.start, row.end) == (long[9000:9010], 9000, 9010)
    assert (row.parent.text, row.parent.start, row.parent.end) == (long[8000:12_345], 8000, 12_345)
    assert (row.pages, row.headings, row.metadata) == ((2, 3), ("A", "ü"), about["metadata"])
    assert (row.chunk_id, row.document_id, row.collection, row.filename) == ("a/b_chunk_0", "a/b", "shown", "a/b.txt")
    assert (again.text, again.parent) == (row.text, None)
    assert (card.chunks, card.pages, card.metadata, card.collection) == (1, 7, about["metadata"], "shown")
    assert (card.stored_at, card.content_hash, card.contents_blob) == (make.AT, "h", "c" * 64)


@pytest.mark.parametrize("name", ["a_chunk_1", "a_chunk_00", "a_chunk_-1", "a_chunk_²", "a", "b_chunk_0", "a_chunk_"])
def test_there_is_no_chunk_but_by_its_id(store: Store, name: str) -> None:
    store.apply(rag.entries(rag.created(), (rag.stored("a"), rag.contents("x"))))

    assert ask(store, store_rows.chunk, "default", name) is None
    assert ask(store, store_rows.chunk, "other", "a_chunk_0") is None


def test_collections_are_counted(store: Store) -> None:
    story = [(rag.stored(name, at=make.at(5)), rag.contents("x", "y")) for name in ("a", "b")]
    store.apply(rag.entries(rag.created(key="k"), *story, rag.deleted("a", at=make.at(9)), rag.created("empty")))

    first, second = ask(store, store_query.collections)

    assert (first.collection, first.documents, first.chunks, first.key) == ("default", 1, 2, "k")
    assert (first.created_at, first.updated_at) == (make.AT, make.at(9))
    assert (second.collection, second.documents, second.chunks) == ("empty", 0, 0)
    assert ask(store, store_query.collection, "default") == first
    assert ask(store, store_query.collection, "other") is None


def test_documents_come_page_by_page(store: Store) -> None:
    story = [(rag.stored(f"{i}"), rag.contents("x", metadata={"even": i % 2 == 0})) for i in range(7)]
    store.apply(rag.entries(rag.created(), *story))

    def page(after: str | None) -> list[str]:
        cards = ask(store, store_query.documents, "default", where({"even": True}), 2, after)
        return [card.document_id for card in cards]

    assert (page(None), page("2"), page("6")) == (["0", "2"], ["4", "6"], [])


def test_a_search_is_among_the_documents_that_a_filter_allows(store: Store) -> None:
    story = [(rag.stored(f"{i}"), rag.contents("cat", "dog", metadata={"n": i})) for i in range(4)]
    store.apply(rag.entries(rag.created(), *story, rag.deleted("3")))
    some_of = where({"n": {"$gte": 2}})

    every = {each.label: each.score for each in ask(store, bm25.search, "default", "cats", 9, None)}
    (found,) = ask(store, bm25.search, "default", "cats", 9, some_of)

    assert len(every) == 3
    assert found.score == every[found.label]
    assert found.label in ask(store, store_query.labels_of, "default", some_of)
    assert ask(store, store_query.document_ids, "default", some_of) == ["2"]


@pytest.mark.parametrize("query", ["", "the", "zebra", "\x00", "'"])
def test_a_query_without_a_known_word_finds_nothing(store: Store, query: str) -> None:
    store.apply(rag.entries(rag.created(), (rag.stored(), rag.contents("cat"))))

    assert ask(store, bm25.search, "default", query, 9, None) == []
    assert ask(store, bm25.search, "other", "cat", 9, None) == []


def test_terms_are_stemmed_words_in_lower_case() -> None:
    assert bm25.tokens("The RUNNING cats' ﬁve naïve_ÜBER 2x 東京 e\u0301t\u00e9") == [
        *("run", "cat", "five", "naïve_üb", "2x", "東", "京", "été"),
    ]


@pytest.mark.parametrize(
    "damaged",
    [{"vectors": b"123"}, {"dimensions": 5}, {"dimensions": 5, "vectors": b"1234567890"}, {"model": "other"}],
)
def test_contents_that_do_not_fit_are_those_of_no_document(store: Store, damaged: dict[str, Any]) -> None:
    story = [(rag.stored(), rag.contents("old")), (rag.stored(), rag.contents("new", **damaged))]
    applied = store.apply(rag.entries(rag.created(), *story))

    assert ask(store, store_query.document, "default", "doc") is None
    assert applied.ignored == {3}


def test_a_label_is_never_given_twice(store: Store) -> None:
    entries = rag.entries(rag.created(), *[(rag.stored(), rag.contents("x", "y"))] * 3, rag.dropped(), rag.created())

    changes = [change for entry in entries for change in store.apply([entry]).changes]

    labels = [label for change in changes for label in change.labels.tolist()]
    assert labels == sorted(set(labels))
    assert len(labels) == 6
    assert ask(store, store_query.last_label) >= labels[-1]


def test_a_store_goes_on_where_it_was_closed(store: Store, tmp_path: Path) -> None:
    path, entries = tmp_path / "o'clock.duckdb", rag.entries(rag.created(), (rag.stored(), rag.contents("x")))
    old = Store(path)
    (before,) = old.apply(entries).changes
    old.close()

    new = Store(path)
    again = new.apply(entries).changes
    (after,) = new.apply(rag.entries((rag.stored("b"), rag.contents("y")), first=3)).changes

    assert (new.generation, again, new.checkpoint) == (old.generation, [], 3)
    assert after.labels[0] > before.labels[-1]
    assert new.generation != store.generation
    new.close()


def test_a_batch_that_fails_changes_nothing(store: Store) -> None:
    store.apply(rag.entries(rag.created()))
    unreadable = rag.contents("x", metadata={"no": object()})

    with pytest.raises(TypeError):
        store.apply(rag.entries((rag.stored("a"), rag.contents("a")), (rag.stored("b"), unreadable), first=2))
    store.apply(rag.entries((rag.stored("c"), rag.contents("c")), first=2))

    assert all_texts(store, "default") == [("c_chunk_0", "c")]
    assert store.checkpoint == 2


def test_a_reader_sees_the_rows_as_they_were_when_it_began(store: Store) -> None:
    store.apply(rag.entries(rag.created(), (rag.stored(), rag.contents("x"))))

    with store.cursor() as cursor:
        cursor.begin()
        before = store_query.documents(cursor, "default", None, 9, None)
        store.apply(rag.entries(rag.deleted(), first=3))
        meanwhile = store_query.documents(cursor, "default", None, 9, None)
        cursor.commit()
        after = store_query.documents(cursor, "default", None, 9, None)

    assert (before, after) == (meanwhile, [])
    assert len(before) == 1


def test_a_chunk_that_is_replaced_meanwhile_is_told_whole_or_not_at_all(store: Store) -> None:
    store.apply(rag.entries(rag.created()))

    def replace() -> None:
        for seq in range(2, 60):
            store.apply(rag.entries((rag.stored(), rag.contents("a cat", "a dog")), first=seq))

    with ThreadPoolExecutor(1) as thread:
        replacing, rows = thread.submit(replace), []
        while not replacing.done():
            rows += ask(store, store_rows.rows_of, ask(store, store_query.labels_of, "default", None)).values()

    replacing.result()
    assert {(row.chunk_id, row.text) for row in rows} == {("doc_chunk_0", "a cat"), ("doc_chunk_1", "a dog")}


def test_the_tables_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rag.duckdb"
    Store(path).close()
    with duckdb.connect(str(path)) as db:
        db.execute("UPDATE state SET version = 0")

    with pytest.raises(OutdatedError):
        Store(path)
    path.write_bytes(b"what is this")
    with pytest.raises(duckdb.Error):
        Store(path)


def test_what_needs_more_memory_than_it_may_take_goes_into_files_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "rag" / "rag.duckdb", 32 * 2**20)
    with store.cursor() as cursor:
        query = "SELECT min(h), count(*) FROM (SELECT hash(i) AS h, i FROM range(3_000_000) t(i) ORDER BY h)"
        ((_, rows),) = cursor.execute(query).fetchall()
        beside = list((tmp_path / "rag" / "rag.duckdb.tmp").iterdir())
    store.close()

    assert rows == 3_000_000
    assert beside
    assert [path.name for path in tmp_path.iterdir()] == ["rag"]
