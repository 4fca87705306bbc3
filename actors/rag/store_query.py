"""What the store is asked. Each question has a cursor of `Store`."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from actors.rag.contents import chunk_id
from actors.rag.filters import Where
from actors.rag.store_schema import PIECE
from bus.messages.rag import Metadata, Passage
from bus.messages.rag_documents import DocumentCard
from eventlog.history_rows import utc

_MANY = "SELECT unnest(?::BIGINT[]) AS label"
_DOCUMENTS = "documents JOIN collections ON documents.collection = number"
_COLLECTIONS = """
    SELECT collections.collection, name, model, dimensions, key, created_at, updated_at,
        count(label), coalesce(sum(chunks), 0)
    FROM collections LEFT JOIN documents ON documents.collection = number
"""
_CARDS = f"""
    SELECT document_id, name, filename, chunks, stored_at, content_hash, source_blob, contents_blob, metadata, pages
    FROM {_DOCUMENTS} WHERE collections.collection = ?
"""  # noqa: S608 - our own names
_ROWS = f"""
    SELECT chunks.label, chunks.document, document_id, name, filename, metadata, chunk_start, chunk_end, parent_start,
        parent_end, first_page, last_page, headings
    FROM chunks JOIN documents ON document = documents.label JOIN collections ON documents.collection = number
    WHERE chunks.label IN ({_MANY})
"""  # noqa: S608 - our own names
_TEXTS = """
    SELECT document, piece, text FROM texts
    SEMI JOIN (SELECT unnest(?::BIGINT[]) AS document, unnest(?::INTEGER[]) AS piece) USING (document, piece)
"""


class CollectionRow(Struct, frozen=True):
    """A collection as it stands; `name` is what its users call it."""

    collection: str
    name: str
    model: str
    dimensions: int
    key: str | None
    created_at: datetime
    updated_at: datetime
    documents: int
    chunks: int


class Row(Struct, frozen=True, kw_only=True):
    """A chunk and what is told of it; `collection` is what its users call it. `parent` only if it was asked for."""

    label: int
    chunk_id: str
    document_id: str
    collection: str
    filename: str
    metadata: Metadata
    text: str
    start: int
    end: int
    pages: tuple[int, int] | None
    headings: tuple[str, ...]
    parent: Passage | None = None


def collections(cursor: duckdb.DuckDBPyConnection) -> list[CollectionRow]:
    """Return the collections, by id."""
    return [_collection(row) for row in cursor.execute(f"{_COLLECTIONS} GROUP BY ALL ORDER BY ALL").fetchall()]


def collection(cursor: duckdb.DuckDBPyConnection, collection_id: str) -> CollectionRow | None:
    """Return one collection, or None."""
    rows = cursor.execute(f"{_COLLECTIONS} WHERE collections.collection = ? GROUP BY ALL", [collection_id]).fetchall()
    return _collection(rows[0]) if rows else None


def documents(
    cursor: duckdb.DuckDBPyConnection, collection_id: str, where: Where | None, limit: int, after: str | None
) -> list[DocumentCard]:
    """Return up to `limit` documents by id, of those behind `after`."""
    allowed = where or Where("TRUE")
    query = f"{_CARDS} AND {allowed.sql} AND document_id > ? ORDER BY document_id LIMIT ?"
    rows = cursor.execute(query, [collection_id, *allowed.values, after or "", limit]).fetchall()
    return [_card(row) for row in rows]


def document(cursor: duckdb.DuckDBPyConnection, collection_id: str, document_id: str) -> DocumentCard | None:
    """Return one document, or None."""
    rows = cursor.execute(f"{_CARDS} AND document_id = ?", [collection_id, document_id]).fetchall()
    return _card(rows[0]) if rows else None


def document_ids(cursor: duckdb.DuckDBPyConnection, collection_id: str, where: Where | None) -> list[str]:
    """Return the ids of the documents that `where` allows, in their order."""
    query, values = _allowed("document_id", collection_id, where)
    return [row[0] for row in cursor.execute(f"{query} ORDER BY document_id", values).fetchall()]


def labels_of(cursor: duckdb.DuckDBPyConnection, collection_id: str, where: Where | None) -> npt.NDArray[np.int64]:
    """Return the chunks of the documents that `where` allows, in their order."""
    query, values = _allowed("unnest(range(label, label + chunks)) AS label", collection_id, where)
    found = cursor.execute(f"{query} ORDER BY label", values).fetchnumpy()
    return np.asarray(found["label"], dtype=np.int64)


def vectors_of(
    cursor: duckdb.DuckDBPyConnection, collection_id: str, after_label: int, limit: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return up to `limit` chunks by label, of those behind `after_label`, and a row of the vectors for each."""
    query = f"""
        SELECT chunks.label, vector, dimensions FROM chunks JOIN {_DOCUMENTS} ON document = documents.label
        WHERE collections.collection = ? AND chunks.label > ? ORDER BY chunks.label LIMIT ?
    """  # noqa: S608 - our own names
    rows = cursor.execute(query, [collection_id, after_label, limit]).fetchall()
    labels = np.array([row[0] for row in rows], dtype=np.int64)
    vectors = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f2").astype(np.float32)
    return labels, vectors.reshape(len(rows), rows[0][2] if rows else 0)


def rows_of(cursor: duckdb.DuckDBPyConnection, labels: Iterable[int], *, parent: bool = False) -> dict[int, Row]:
    """Return the chunks with these labels, those that are there, with the section around each if `parent`."""
    found = cursor.execute(_ROWS, [[int(label) for label in labels]]).fetchall()
    pieces = _pieces(cursor, found, parent=parent)
    return {row[0]: _row(row, pieces, parent=parent) for row in found}


def chunk(cursor: duckdb.DuckDBPyConnection, collection_id: str, chunk_id: str) -> Row | None:
    """Return one chunk with its parent, or None."""
    document_id, _, number = chunk_id.rpartition("_chunk_")
    if not (number.isascii() and number.isdecimal()):
        return None
    query = f"""
        SELECT label + ?::HUGEINT FROM {_DOCUMENTS}
        WHERE collections.collection = ? AND document_id = ? AND chunks > ?::HUGEINT
    """
    return None
