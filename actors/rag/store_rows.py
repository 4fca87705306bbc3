"""The chunks in the store, each with all that is told of it when it is found."""

from collections.abc import Iterable, Mapping

import duckdb
import msgspec
from msgspec import Struct

from actors.rag.contents import chunk_id
from actors.rag.store_query import as_one
from actors.rag.store_schema import PIECE, Span
from bus.messages.rag import Metadata, Passage

_CHUNKS = """
    SELECT chunks.label, documents.label, chunks, document_id, name, filename, metadata, chunk_start, chunk_end,
        parent_start, parent_end, first_page, last_page, headings
    FROM chunks JOIN documents ON document = documents.label JOIN collections ON documents.collection = number
    WHERE chunks.label IN (SELECT unnest(?::BIGINT[]))
"""
_TEXTS = "SELECT number, text FROM texts WHERE number IN (SELECT unnest(?::BIGINT[]))"
_LABEL = """
    SELECT label, chunks FROM documents JOIN collections ON documents.collection = number
    WHERE collections.collection = ? AND document_id = ?
"""


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


class _Chunk(Struct, frozen=True):
    """A row as it is read."""

    label: int
    document: int
    chunks: int
    document_id: str
    name: str
    filename: str
    metadata: str
    start: int
    end: int
    parent_start: int
    parent_end: int
    first_page: int | None
    last_page: int | None
    headings: str

    def pieces(self, start: int, end: int) -> range:
        """Return the numbers of the pieces in which these characters of the text are."""
        first = Span(self.document, self.chunks).first_piece
        return range(first + start // PIECE, first - (-end // PIECE))


def rows_of(cursor: duckdb.DuckDBPyConnection, labels: Iterable[int], *, parent: bool = False) -> dict[int, Row]:
    """Return the chunks with these labels, those that are there, with the section around each if `parent`."""
    with as_one(cursor):
        found = [_Chunk(*row) for row in cursor.execute(_CHUNKS, [list(map(int, labels))]).fetchall()]
        wanted = {piece for chunk in found for piece in chunk.pieces(chunk.start, chunk.end)}
        if parent:
            wanted.update(piece for chunk in found for piece in chunk.pieces(chunk.parent_start, chunk.parent_end))
        pieces = dict(cursor.execute(_TEXTS, [list(wanted)]).fetchall())
    return {chunk.label: _row(chunk, pieces, parent=parent) for chunk in found}


def chunk(cursor: duckdb.DuckDBPyConnection, collection_id: str, name: str) -> Row | None:
    """Return the chunk with the id `name`, with its parent, or None."""
    document_id, _, number = name.rpartition("_chunk_")
    rows = cursor.execute(_LABEL, [collection_id, document_id]).fetchall()
    if not (rows and number.isascii() and number.isdecimal() and int(number) < rows[0][1]):
        return None
    label = rows[0][0] + int(number)
    found = rows_of(cursor, [label], parent=True).get(label)
    return found if found is not None and found.chunk_id == name else None


def _row(chunk: _Chunk, pieces: Mapping[int, str], *, parent: bool) -> Row:
    return Row(
        label=chunk.label,
        chunk_id=chunk_id(chunk.document_id, chunk.label - chunk.document),
        document_id=chunk.document_id,
        collection=chunk.name,
        filename=chunk.filename,
        metadata=_metadata_decoder.decode(chunk.metadata),
        text=_passage(chunk, chunk.start, chunk.end, pieces).text,
        start=chunk.start,
        end=chunk.end,
        pages=None if chunk.first_page is None or chunk.last_page is None else (chunk.first_page, chunk.last_page),
        headings=_headings_decoder.decode(chunk.headings),
        parent=_passage(chunk, chunk.parent_start, chunk.parent_end, pieces) if parent else None,
    )


def _passage(chunk: _Chunk, start: int, end: int, pieces: Mapping[int, str]) -> Passage:
    joined = "".join(pieces.get(number, "") for number in chunk.pieces(start, end))
    skipped = start // PIECE * PIECE
    return Passage(text=joined[start - skipped : end - skipped], start=start, end=end)


_metadata_decoder = msgspec.json.Decoder(Metadata)
_headings_decoder = msgspec.json.Decoder(tuple[str, ...])
