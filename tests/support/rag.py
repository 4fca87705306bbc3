"""Documents of a few words, as the log and the blobs have them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.rag.contents import Chunk, Contents
from bus.ids import new_id
from eventlog.events import Recorded
from eventlog.rag_events import CollectionCreated, CollectionDeleted, DocumentDeleted, DocumentStored
from tests.support import make

DIMENSIONS = 4


def created(collection: str = "default", **fields: Any) -> CollectionCreated:
    """Return a new collection."""
    about = {"collection": collection, "name": collection, "model": "m", "dimensions": DIMENSIONS}
    return CollectionCreated(**({"id": new_id("evt"), "at": make.AT} | about | fields))


def stored(document_id: str = "doc", **fields: Any) -> DocumentStored:
    """Return that a document was stored, in the collection "default" if not said otherwise."""
    about = {"collection": "default", "filename": f"{document_id}.txt", "content_hash": "h", "chunks": 1}
    blobs = {"source_blob": "s" * 64, "contents_blob": "c" * 64}
    return DocumentStored(**({"id": new_id("evt"), "at": make.AT, "document_id": document_id} | about | blobs | fields))


def deleted(document_id: str = "doc", collection: str = "default", **fields: Any) -> DocumentDeleted:
    """Return that a document was deleted."""
    about = {"collection": collection, "document_id": document_id}
    return DocumentDeleted(**({"id": new_id("evt"), "at": make.AT} | about | fields))


def dropped(collection: str = "default") -> CollectionDeleted:
    """Return that a collection was deleted."""
    return CollectionDeleted(id=new_id("evt"), at=make.AT, collection=collection)


def contents(*texts: str, dimensions: int = DIMENSIONS, **fields: Any) -> Contents:
    """Return a document that has `texts` as chunks, each with a vector of its own; the whole is the parent of each."""
    text, chunks = "\n".join(texts), []
    for each in texts:
        start = chunks[-1].end + 1 if chunks else 0
        chunks.append(Chunk(start=start, end=start + len(each), tokens=1, parent_start=0, parent_end=len(text)))
    about = {"collection": "default", "document_id": "doc", "model": "m", "dimensions": dimensions}
    made = {"text": text, "chunks": tuple(chunks), "vectors": vectors(texts, dimensions).astype("<f2").tobytes()}
    return Contents(**(about | made | fields))


def vectors(texts: Sequence[str], dimensions: int = DIMENSIONS) -> Any:
    """Return a row of norm 1 for each text, the same for the same text."""
    rows = [np.random.default_rng(list(text.encode())).standard_normal(dimensions) for text in texts]
    table = np.array(rows, dtype=np.float32).reshape(-1, dimensions)
    return (table / np.linalg.norm(table, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def entries(*story: Any, first: int = 1) -> list[tuple[Recorded, Any]]:
    """Return events with their contents as they come from the log, from the sequence `first` on."""
    told = [each if isinstance(each, tuple) else (each, None) for each in story]
    return [(Recorded(seq, event, b""), blob) for seq, (event, blob) in enumerate(told, first)]
