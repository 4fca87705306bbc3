"""Compares a collection with the log: its documents, the blobs behind them, and its index."""

from collections.abc import Iterator

import duckdb
import numpy as np

from actors.rag.library import Library
from actors.rag.store_query import CollectionRow, documents
from bus.blobs import Blobs
from bus.client import Bus
from bus.messages.rag_documents import DocumentCard, Verified
from bus.pull import reading_log
from eventlog.rag_events import CollectionCreated, CollectionDeleted, DocumentDeleted, DocumentStored, RagEvent

_MOST = 100
_BATCH = 1000
_PAGE = 1000

_Stored = dict[str, DocumentStored]


async def verify(bus: Bus, library: Library, blobs: Blobs, row: CollectionRow) -> Verified:
    """Return what of the collection does not agree. Takes as long as reading all its blobs."""
    seq, kept = await library.read(lambda cursor: _as_one(cursor, row.collection))
    logged = await _logged(bus, row.collection, seq)
    problems = list(_differences(logged, kept))
    for card in kept.values():
        for what, blob in (("contents are", card.contents_blob), ("source is", card.source_blob)):
            if await blobs.find(blob) is None:
                problems.append(f"{card.document_id}: its {what} gone or damaged")
    problems += await _of_index(library, row.collection)
    told = problems[:_MOST]
    if len(problems) > _MOST:
        told.append(f"and {len(problems) - _MOST} more")
    return Verified(
        collection=row.name,
        documents=len(kept),
        chunks=sum(card.chunks for card in kept.values()),
        problems=tuple(told),
    )


def _as_one(cursor: duckdb.DuckDBPyConnection, collection: str) -> tuple[int, dict[str, DocumentCard]]:
    """Return the documents as they are after some event of RAG, and its number."""
    cursor.begin()
    ((seq,),) = cursor.execute("SELECT seq FROM state").fetchall()
    kept: dict[str, DocumentCard] = {}
    after = None
    while found := documents(cursor, collection, None, _PAGE, after):
        kept |= {card.document_id: card for card in found}
        after = found[-1].document_id
    cursor.commit()
    return int(seq), kept


async def _logged(bus: Bus, collection: str, seq: int) -> _Stored:
    """Return the documents that the collection has after event number `seq` of RAG."""
    stored: _Stored | None = None
    last = 0
    async with reading_log(bus, 0, "RAG") as reader:
        while last < seq:
            for entry in await reader.batch(_BATCH):
                last = entry.seq
                if last <= seq and isinstance(entry.event, RagEvent) and entry.event.collection == collection:
                    stored = _after(stored, entry.event)
    return stored or {}


def _after(stored: _Stored | None, event: RagEvent) -> _Stored | None:
    """Return what the collection has after `event`; None if it is not there."""
    match event:
        case CollectionCreated():
            return {} if stored is None else stored
        case CollectionDeleted():
            return None
        case DocumentStored() if stored is not None:
            stored[event.document_id] = event
        case DocumentDeleted() if stored is not None:
            stored.pop(event.document_id, None)
        case _:
            pass
    return stored


def _differences(logged: _Stored, kept: dict[str, DocumentCard]) -> Iterator[str]:
    for document_id in sorted(logged.keys() | kept.keys()):
        event, card = logged.get(document_id), kept.get(document_id)
        if card is None:
            yield f"{document_id}: it is in the log, and not stored"
        elif event is None:
            yield f"{document_id}: it is stored, and not in the log"
        elif (event.content_hash, event.chunks) != (card.content_hash, card.chunks):
            yield f"{document_id}: it is stored otherwise than the log has it"


async def _of_index(library: Library, collection: str) -> list[str]:
    """Return how the index differs from the rows; looks twice, for both may change in between."""
    missing, surplus = await _index_differences(library, collection)
    if missing.size or surplus.size:
        again = await _index_differences(library, collection)
        missing, surplus = np.intersect1d(missing, again[0]), np.intersect1d(surplus, again[1])
    found = []
    if missing.size:
        found.append(f"the index lacks {missing.size} chunks")
    if surplus.size:
        found.append(f"the index has {surplus.size} chunks that are not stored")
    return found


async def _index_differences(library: Library, collection: str) -> tuple[np.ndarray, np.ndarray]:
    rows, labels = await library.labels(collection), await library.index_labels(collection)
    return np.setdiff1d(rows, labels), np.setdiff1d(labels, rows)
