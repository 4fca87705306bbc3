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


def chunk(cursor: duckdb.DuckDBPyConnection, collection_id: str, name: str) -> Row | None:
    """Return one chunk with its parent, or None."""
    document_id, _, number = name.rpartition("_chunk_")
    query = f"SELECT label, chunks FROM {_DOCUMENTS} WHERE collections.collection = ? AND document_id = ?"  # noqa: S608 - our own names
    rows = cursor.execute(query, [collection_id, document_id]).fetchall()
    if not (rows and number.isascii() and number.isdecimal() and int(number) < rows[0][1]):
        return None
    label = rows[0][0] + int(number)
    found = rows_of(cursor, [label], parent=True).get(label)
    return found if found is not None and found.chunk_id == name else None


def _allowed(what: str, collection_id: str, where: Where | None) -> tuple[str, list[object]]:
    allowed = where or Where("TRUE")
    query = f"SELECT {what} FROM {_DOCUMENTS} WHERE collections.collection = ? AND {allowed.sql}"  # noqa: S608 - our own names
    return query, [collection_id, *allowed.values]


def _pieces(
    cursor: duckdb.DuckDBPyConnection, rows: Sequence[tuple[Any, ...]], *, parent: bool
) -> dict[tuple[int, int], str]:
    """Return the parts of the texts in which these chunks are, by document and number."""
    wanted = {
        (document, piece)
        for _, document, *_, start, end, parent_start, parent_end, _, _, _ in rows
        for piece in range(*_span(*((min(start, parent_start), max(end, parent_end)) if parent else (start, end))))
    }
    if not wanted:
        return {}
    found = cursor.execute(_TEXTS, [[document for document, _ in wanted], [piece for _, piece in wanted]]).fetchall()
    return {(document, piece): text for document, piece, text in found}


def _span(start: int, end: int) -> tuple[int, int]:
    return start // PIECE, -(-end // PIECE)


def _row(row: tuple[Any, ...], pieces: dict[tuple[int, int], str], *, parent: bool) -> Row:
    label, document, document_id, name, filename, metadata, start, end, parent_start, parent_end, *rest = row
    first_page, last_page, headings = rest

    def text(start: int, end: int) -> str:
        first, behind = _span(start, end)
        joined = "".join(pieces.get((document, piece), "") for piece in range(first, behind))
        return joined[start - first * PIECE : end - first * PIECE]

    return Row(
        label=label,
        chunk_id=chunk_id(document_id, label - document),
        document_id=document_id,
        collection=name,
        filename=filename,
        metadata=_metadata_decoder.decode(metadata),
        text=text(start, end),
        start=start,
        end=end,
        pages=None if first_page is None else (first_page, last_page),
        headings=_headings_decoder.decode(headings),
        parent=Passage(text=text(parent_start, parent_end), start=parent_start, end=parent_end) if parent else None,
    )


def _collection(row: tuple[Any, ...]) -> CollectionRow:
    collection_id, name, model, dimensions, key, created_at, updated_at, document_count, chunk_count = row
    return CollectionRow(
        collection_id, name, model, dimensions, key, utc(created_at), utc(updated_at), document_count, int(chunk_count)
    )


def _card(row: tuple[Any, ...]) -> DocumentCard:
    document_id, name, filename, chunks, stored_at, content_hash, source_blob, contents_blob, metadata, pages = row
    return DocumentCard(
        document_id=document_id,
        collection=name,
        filename=filename,
        chunks=chunks,
        stored_at=utc(stored_at),
        content_hash=content_hash,
        source_blob=source_blob,
        contents_blob=contents_blob,
        metadata=_metadata_decoder.decode(metadata),
        pages=pages,
    )


_metadata_decoder = msgspec.json.Decoder(Metadata)
_headings_decoder = msgspec.json.Decoder(tuple[str, ...])
