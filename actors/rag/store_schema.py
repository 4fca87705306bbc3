"""The tables of the store of documents, and the rows that go into them."""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from actors.rag.contents import Contents
from eventlog.history_rows import Columns, naive, objects
from eventlog.rag_events import CollectionCreated, DocumentStored

# To be counted up with every change of the tables, and of what terms a text has.
VERSION = 2

# Characters of a document's text that lie in one row of `texts`. Reading some rows takes as long as unpacking all that
# were packed with them: these and uncompressed ones are eight times as fast as 4096 and what DuckDB would choose.
PIECE = 1024

# Collections, chunks and pieces of texts have numbers, none of which is given twice. A document has that of its first
# chunk; the pieces of its text follow those of the chunks. Terms are by collection too (bm25.py). `recent` are the
# postings that have not been sorted into `postings` yet.
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS state (version INTEGER, generation VARCHAR, seq BIGINT, next_number BIGINT, run BIGINT);
CREATE TABLE IF NOT EXISTS collections (
    number BIGINT, collection VARCHAR, name VARCHAR, model VARCHAR, dimensions INTEGER, key VARCHAR,
    created_at TIMESTAMP, updated_at TIMESTAMP
);
CREATE TABLE IF NOT EXISTS documents (
    label BIGINT, chunks INTEGER, pieces INTEGER, collection BIGINT, document_id VARCHAR, filename VARCHAR,
    stored_at TIMESTAMP, content_hash VARCHAR, source_blob VARCHAR, contents_blob VARCHAR, metadata VARCHAR,
    pages INTEGER, terms BIGINT
);
CREATE TABLE IF NOT EXISTS chunks (
    label BIGINT, document BIGINT, chunk_start INTEGER, chunk_end INTEGER, parent_start INTEGER, parent_end INTEGER,
    first_page INTEGER, last_page INTEGER, headings VARCHAR, vector BLOB
);
CREATE TABLE IF NOT EXISTS texts (number BIGINT, text VARCHAR USING COMPRESSION uncompressed);
CREATE TABLE IF NOT EXISTS postings (term BIGINT, label BIGINT, occurrences INTEGER, length INTEGER);
CREATE TABLE IF NOT EXISTS recent (term BIGINT, label BIGINT, occurrences INTEGER, length INTEGER);
INSERT INTO state SELECT {VERSION}, uuid()::VARCHAR, 0, 1, 0 WHERE NOT EXISTS (FROM state);
"""


class Span(Struct, frozen=True):
    """The numbers of a document: so many `chunks` from `label` on, then the pieces of its text."""

    label: int
    chunks: int

    @property
    def first_piece(self) -> int:
        """The number of the first piece."""
        return self.label + max(self.chunks, 1)


class NewCollection(Struct, frozen=True):
    """A collection that is to be stored under `number`."""

    number: int
    event: CollectionCreated


class NewDocument(Struct, frozen=True):
    """A document that is to be stored. `collection` is a number."""

    span: Span
    collection: int
    event: DocumentStored
    contents: Contents

    @property
    def texts(self) -> list[str]:
        """The texts of the chunks."""
        return [self.contents.text[chunk.start : chunk.end] for chunk in self.contents.chunks]


def collection_columns(created: Sequence[NewCollection]) -> Columns:
    """Return the rows of `collections`."""
    events = [one.event for one in created]
    times = objects(naive(event.at) for event in events)
    return {
        "number": objects(one.number for one in created),
        **{name: _fields(events, name) for name in ("collection", "name", "model", "dimensions", "key")},
        "created_at": times,
        "updated_at": times,
    }


def document_columns(stored: Sequence[NewDocument], terms: Sequence[int]) -> Columns:
    """Return the rows of `documents`; `terms` is how many each has."""
    events = [one.event for one in stored]
    names = ("document_id", "filename", "content_hash", "source_blob", "contents_blob")
    return {
        "label": objects(one.span.label for one in stored),
        "chunks": objects(one.span.chunks for one in stored),
        "pieces": objects(-(-len(one.contents.text) // PIECE) for one in stored),
        "collection": objects(one.collection for one in stored),
        **{name: _fields(events, name) for name in names},
        "stored_at": objects(naive(event.at) for event in events),
        "metadata": objects(msgspec.json.encode(one.contents.metadata).decode() for one in stored),
        "pages": objects(one.contents.pages for one in stored),
        "terms": objects(terms),
    }


def chunk_columns(stored: Sequence[NewDocument]) -> Columns:
    """Return the rows of `chunks`."""
    chunks = [chunk for one in stored for chunk in one.contents.chunks]
    return {
        "label": objects(one.span.label + number for one in stored for number in range(one.span.chunks)),
        "document": objects(one.span.label for one in stored for _ in one.contents.chunks),
        "chunk_start": _fields(chunks, "start"),
        "chunk_end": _fields(chunks, "end"),
        "parent_start": _fields(chunks, "parent_start"),
        "parent_end": _fields(chunks, "parent_end"),
        "first_page": objects(chunk.pages and chunk.pages[0] for chunk in chunks),
        "last_page": objects(chunk.pages and chunk.pages[1] for chunk in chunks),
        "headings": objects(msgspec.json.encode(chunk.headings).decode() for chunk in chunks),
        "vector": objects(vector for one in stored for vector in _vectors(one.contents)),
    }


def text_columns(stored: Sequence[NewDocument]) -> Columns:
    """Return the rows of `texts`."""
    pieces = [
        (one.span.first_piece + start // PIECE, one.contents.text[start : start + PIECE])
        for one in stored
        for start in range(0, len(one.contents.text), PIECE)
    ]
    return {"number": objects(number for number, _ in pieces), "text": objects(text for _, text in pieces)}


def _vectors(contents: Contents) -> Iterator[bytes]:
    size = 2 * contents.dimensions
    return (contents.vectors[start : start + size] for start in range(0, len(contents.vectors), size))


def _fields(rows: Sequence[Struct], name: str) -> object:
    return objects(getattr(row, name) for row in rows)
