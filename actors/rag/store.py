"""The store: a DuckDB projection of the log of documents. Deleting its file loses nothing; it is built again.

Events go in by batches, on one thread; the rows and the checkpoint move in one transaction, so that a batch counts
once however often it is delivered. What is asked (store_query.py) has cursors of its own, on any thread.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import duckdb
import numpy as np
import numpy.typing as npt

from actors.rag import bm25
from actors.rag.change import Applied, Change
from actors.rag.filters import MACROS
from actors.rag.store_batch import Batch, Collection, Entry, about
from actors.rag.store_schema import (
    SCHEMA,
    VERSION,
    NewDocument,
    Span,
    chunk_columns,
    collection_columns,
    document_columns,
    text_columns,
)
from eventlog.history import OutdatedError
from eventlog.history_rows import Columns, naive, objects
from eventlog.rag_events import RagEvent

_RAG_EVENTS = get_args(RagEvent)

# Postings lie in runs, each sorted by term, so that few of these groups of rows are read for a term.
_ROWS_IN_GROUP = 16_384
# Postings that wait to be sorted into the last run, and how many times as many it has when it is left alone: sorting
# two million takes under a second, and documents wait for it.
_MOST_RECENT = 200_000
_FULL_RUN = 10

_DELETE_TEXTS = """
    DELETE FROM texts WHERE number IN (
        SELECT unnest(range(label + greatest(chunks, 1), label + greatest(chunks, 1) + pieces))
        FROM documents WHERE label IN (FROM batch)
    )
"""


class Store:
    """The tables in one DuckDB file.

    `generation` is another one for each new file: labels of one generation mean nothing in another. So many postings
    as `most_recent` wait to be sorted. DuckDB takes up to `memory_bytes`; what needs more goes into a folder beside the
    file.
    Raises duckdb.Error when the file cannot be opened or is damaged, and `OutdatedError`.
    """

    def __init__(self, path: Path, memory_bytes: int = 2**30, *, most_recent: int = _MOST_RECENT) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._most_recent = most_recent
        self._db = duckdb.connect()
        try:
            quoted = str(path).replace("'", "''")
            self._db.execute(f"SET memory_limit = '{memory_bytes}B'")
            self._db.execute(f"SET temp_directory = '{quoted}.tmp'")
            self._db.execute(f"ATTACH '{quoted}' AS rag (ROW_GROUP_SIZE {_ROWS_IN_GROUP})")
            self._db.execute("USE rag")
            # Each question on the thread that asks it: a search by words takes as long on two, and a quarter more CPU.
            self._db.execute("SET threads = 1")
            self._check_version(path)
            self._db.execute(SCHEMA)
            self._db.execute(MACROS)
            state = self._rows("SELECT generation, seq, next_number, run FROM state")
        except (duckdb.Error, OutdatedError):
            self._db.close()
            raise
        ((generation, seq, number, run),) = state
        self.generation, self.checkpoint = str(generation), int(seq)
        self._next_number, self._run = int(number), int(run)

    def close(self) -> None:
        """Write everything out and let go of the file. No cursor may be in use any more."""
        self._db.close()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return what reads the tables as they are after some batch, whatever goes in meanwhile. To be closed."""
        cursor = self._db.cursor()
        cursor.execute("USE rag")
        return cursor

    def apply(self, entries: Sequence[Entry]) -> Applied:
        """Take in `entries`, in the order of the log, and return what changed. Those up to the checkpoint are left out.

        The contents of a document that is stored are None if their blob is gone; then the document is, too.
        """
        new = [entry for entry in entries if entry[0].seq > self.checkpoint]
        if not new:
            return Applied([], frozenset())
        checkpoint = new[-1][0].seq
        with self._transaction():
            batch, touched = self._batch(new)
            self._write(batch, touched)
            run = self._sorted()
            self._db.execute("UPDATE state SET seq = ?, next_number = ?, run = ?", [checkpoint, batch.next_number, run])
        self.checkpoint, self._next_number, self._run = checkpoint, batch.next_number, run
        return Applied(_deleted(batch) + _changed(batch), frozenset(batch.ignored))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.begin()
        try:
            yield
        except BaseException:
            self._db.rollback()
            raise
        self._db.commit()

    def _check_version(self, path: Path) -> None:
        if not self._rows("FROM duckdb_tables() WHERE database_name = 'rag' AND table_name = 'state'"):
            return
        ((version,),) = self._rows("SELECT version FROM state")
        if version != VERSION:
            raise OutdatedError(f"{path} has the tables of version {version}, not {VERSION}")

    def _batch(self, entries: Sequence[Entry]) -> tuple[Batch, Mapping[int, datetime]]:
        """Return what `entries` add up to, and when each collection was changed last, by its number."""
        known = [
            Collection(*row) for row in self._rows("SELECT number, collection, model, dimensions FROM collections")
        ]
        batch = Batch({one.collection: one for one in known}, self._documents(about(entries)), self._next_number)
        touched = {}
        for entry, contents in entries:
            if isinstance(entry.event, _RAG_EVENTS):
                number = batch.take(entry.seq, entry.event, contents)
                if number is not None:
                    touched[number] = naive(entry.event.at)
        return batch, touched

    def _documents(self, ids: Iterable[tuple[str, str]]) -> dict[tuple[int, str], Span]:
        """Return those documents of these collections that are stored, by the number of the collection."""
        names = list(ids)
        query = """
            SELECT number, document_id, label, chunks FROM batch JOIN collections USING (collection)
            JOIN documents USING (document_id) WHERE documents.collection = number
        """
        columns = {"collection": objects(each for each, _ in names), "document_id": objects(each for _, each in names)}
        rows = self._with_batch(query, columns) if names else []
        return {(number, document_id): Span(label, chunks) for number, document_id, label, chunks in rows}

    def _write(self, batch: Batch, touched: Mapping[int, datetime]) -> None:
        self._delete(batch)
        if batch.created:
            self._insert("collections", collection_columns(list(batch.created.values())))
        if touched:
            columns = {"number": objects(touched), "updated_at": objects(touched.values())}
            update = "UPDATE collections c SET updated_at = batch.updated_at FROM batch WHERE c.number = batch.number"
            self._with_batch(update, columns)
        stored = list(batch.stored.values())
        if stored:
            postings = bm25.postings(stored)
            self._insert("documents", document_columns(stored, postings.lengths))
            self._insert("chunks", chunk_columns(stored))
            self._insert("texts", text_columns(stored))
            self._insert("recent", postings.columns)

    def _delete(self, batch: Batch) -> None:
        gone = [span for several in batch.gone.values() for span in several]
        for collection in batch.dropped:
            rows = self._rows("SELECT label, chunks FROM documents WHERE collection = ?", [collection.number])
            gone += [Span(*row) for row in rows]
            self._db.execute("DELETE FROM collections WHERE number = ?", [collection.number])
        if not gone:
            return
        documents = {"label": np.array([span.label for span in gone])}
        chunks = {"label": _labels(gone)}
        self._with_batch(_DELETE_TEXTS, documents)
        self._with_batch("DELETE FROM documents WHERE label IN (FROM batch)", documents)
        for table in ("chunks", "postings", "recent"):
            self._with_batch(f"DELETE FROM {table} WHERE label IN (FROM batch)", chunks)  # noqa: S608 - our own names

    def _sorted(self) -> int:
        """Sort the recent postings into the last run if they are many. Return the label with which that begins."""
        ((recent, first),) = self._rows("SELECT count(*), min(label) FROM recent")
        if recent < self._most_recent:
            return self._run
        ((rows,),) = self._rows("SELECT count(*) FROM postings WHERE label >= ?", [self._run])
        run = int(first) if rows >= _FULL_RUN * self._most_recent else self._run
        self._db.execute("INSERT INTO recent FROM postings WHERE label >= ?", [run])
        self._db.execute("DELETE FROM postings WHERE label >= ?", [run])
        self._db.execute("INSERT INTO postings FROM recent ORDER BY term")
        self._db.execute("DELETE FROM recent")
        return run

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._db.execute(query, values).fetchall()

    def _insert(self, table: str, columns: Columns) -> None:
        names = ", ".join(columns)
        self._with_batch(f"INSERT INTO {table} ({names}) SELECT {names} FROM batch", columns)  # noqa: S608 - our own names

    def _with_batch(self, query: str, columns: Columns) -> list[tuple[Any, ...]]:
        """Return what `query` gives, to which `columns` are the table `batch`."""
        self._db.register("batch", columns)
        try:
            return self._db.execute(query).fetchall()
        finally:
            self._db.unregister("batch")


def _deleted(batch: Batch) -> list[Change]:
    return [_change(collection, [], [], is_deleted=True) for collection in batch.dropped]


def _changed(batch: Batch) -> list[Change]:
    stored: dict[int, list[NewDocument]] = {}
    for document in batch.stored.values():
        stored.setdefault(document.collection, []).append(document)
    return [
        _change(collection, stored.get(collection.number, []), batch.gone.get(collection.number, []))
        for collection in batch.collections.values()
        if collection.number in stored or collection.number in batch.gone
    ]


def _change(
    collection: Collection, stored: Sequence[NewDocument], gone: Sequence[Span], *, is_deleted: bool = False
) -> Change:
    vectors = np.frombuffer(b"".join(document.contents.vectors for document in stored), dtype="<f2")
    return Change(
        collection.collection,
        collection.dimensions,
        _labels(document.span for document in stored),
        vectors.reshape(-1, collection.dimensions).astype(np.float32),
        _labels(gone),
        is_deleted,
    )


def _labels(spans: Iterable[Span]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *(np.arange(span.label, span.label + span.chunks) for span in spans)])
