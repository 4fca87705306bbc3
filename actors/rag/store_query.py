"""What the store is asked. Each question has a cursor of `Store`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from actors.rag.filters import Where
from bus.messages.rag import Metadata
from bus.messages.rag_documents import DocumentCard
from eventlog.history_rows import utc

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


@contextmanager
def as_one(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Have all that is read in the block be as it is at one moment."""
    cursor.begin()
    try:
        yield
    finally:
        cursor.rollback()


class Place(Struct, frozen=True):
    """A collection as a search has to know it: `name` is what its users call it."""

    collection: str
    name: str
    model: str
    dimensions: int


def places(cursor: duckdb.DuckDBPyConnection) -> dict[str, Place]:
    """Return the collections, by id."""
    rows = cursor.execute("SELECT collection, name, model, dimensions FROM collections").fetchall()
    return {row[0]: Place(*row) for row in rows}


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


def known(
    cursor: duckdb.DuckDBPyConnection, collection_id: str, ids: Iterable[str], where: Where | None
) -> dict[str, DocumentCard]:
    """Return those documents of these ids that are there, and that `where` allows."""
    allowed = where or Where("TRUE")
    query = f"{_CARDS} AND document_id IN (SELECT unnest(?::VARCHAR[])) AND {allowed.sql}"
    cards = (_card(row) for row in cursor.execute(query, [collection_id, list(ids), *allowed.values]).fetchall())
    return {card.document_id: card for card in cards}


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


def named_blobs(cursor: duckdb.DuckDBPyConnection, names: Iterable[str]) -> set[str]:
    """Return those of these blobs that some document has."""
    query = """
        FROM (SELECT unnest(?::VARCHAR[]) AS name)
        SEMI JOIN (SELECT source_blob AS name FROM documents UNION ALL SELECT contents_blob FROM documents) USING (name)
    """
    return {row[0] for row in cursor.execute(query, [list(names)]).fetchall()}


def last_label(cursor: duckdb.DuckDBPyConnection) -> int:
    """Return the highest number that was ever given."""
    ((number,),) = cursor.execute("SELECT next_number FROM state").fetchall()
    return int(number) - 1


def _allowed(what: str, collection_id: str, where: Where | None) -> tuple[str, list[object]]:
    allowed = where or Where("TRUE")
    query = f"SELECT {what} FROM {_DOCUMENTS} WHERE collections.collection = ? AND {allowed.sql}"  # noqa: S608 - our own names
    return query, [collection_id, *allowed.values]


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
