"""The library: the store of documents and the indexes over it, each on threads of its own.

One thread writes the store, others read it meanwhile; the indexes are in indexes.py.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import duckdb
from numpy.typing import NDArray

from actors.projection_file import opened
from actors.projection_readers import Readers
from actors.rag import bm25, store_query, store_rows
from actors.rag.blocks import Vectors
from actors.rag.collection_index import Card, Found
from actors.rag.config import RagConfig
from actors.rag.filters import where
from actors.rag.index import Scored
from actors.rag.indexes import Indexes
from actors.rag.labels import Labels
from actors.rag.store import Store
from actors.rag.store_batch import Entry
from actors.rag.store_query import CollectionRow, Place
from actors.rag.store_rows import Row
from bus.messages.rag import Filter
from bus.messages.rag_documents import DocumentCard
from eventlog.rag_events import CollectionCreated, CollectionDeleted

T = TypeVar("T")

_READ_SECONDS = 30.0


class Library:
    """All documents, and what finds them."""

    def __init__(self, folder: Path, config: RagConfig) -> None:
        self._path = folder / "rag.duckdb"
        self._memory_bytes = config.store_bytes
        self._opened: Store | None = None
        self._writer = ThreadPoolExecutor(1, "rag-writer")
        self._readers = Readers("documents")
        self._indexes = Indexes(folder / "indexes", self, ef=config.ef, snapshot_seconds=config.snapshot_seconds)
        # Every search asks for some of them.
        self._places: Mapping[str, Place] = {}

    async def open(self) -> None:
        """Open everything. A damaged store is deleted: everything in it is in the log, and read again from there."""
        self._opened = await self._on_writer(
            lambda: opened("rag", self._path, lambda path: Store(path, self._memory_bytes))
        )
        self._places = await self._on_writer(self._read_places)
        await self._indexes.open()

    async def run(self) -> None:
        """Build the indexes in the background, and save them, until cancelled."""
        await self._indexes.run()

    async def close(self) -> None:
        """Save the indexes and close everything."""
        if self._opened is not None:
            await self._indexes.close()
            await self._readers.quiet()
            await self._on_writer(self._store.close)
        self._writer.shutdown()
        self._readers.close()

    @property
    def checkpoint(self) -> int:
        """The number of the last event of RAG that was taken in."""
        return self._store.checkpoint

    async def apply(self, entries: Sequence[Entry]) -> frozenset[int]:
        """Take in `entries`, in the order of the log; when this returns, searches know of them.

        Returns the numbers, in RAG, of those that changed nothing (change.py).
        """
        changes, ignored = await self._on_writer(lambda: self._store.apply(entries))
        if any(isinstance(entry.event, CollectionCreated | CollectionDeleted) for entry, _ in entries):
            self._places = await self._on_writer(self._read_places)
        await self._indexes.apply(changes)
        return ignored

    async def read(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Return what `work` reads, beside what is written meanwhile. Raises `LostError` ("timeout")."""
        return await self._readers.read(self._store.cursor, work, _READ_SECONDS)

    async def dense(self, collection: str, vector: NDArray[Any], limit: int, allowed: Filter) -> Found:
        """Return the chunks whose vectors have the highest cosine, at most `limit`. Raises `RefusedError`."""
        labels = await self.labels(collection, allowed) if allowed else None
        return await self._indexes.search(collection, vector, limit, labels)

    async def cosines(self, collection: str, vector: NDArray[Any], labels: Labels) -> list[Scored]:
        """Return those of `labels` that have a vector, each with its cosine. Raises `RefusedError`."""
        return (await self._indexes.search(collection, vector, labels.size, labels)).scored

    async def bm25(self, collection: str, query: str, limit: int, allowed: Filter) -> list[Scored]:
        """Return the chunks that fit the words of `query` best, at most `limit`. Raises `RefusedError`."""
        condition = where(allowed)
        return await self.read(lambda cursor: bm25.search(cursor, collection, query, limit, condition))

    async def rows(self, labels: Iterable[int], *, parent: bool = False) -> dict[int, Row]:
        """Return those chunks that are there, by label."""
        return await self.read(partial(store_rows.rows_of, labels=labels, parent=parent))

    async def labels(self, collection: str, allowed: Filter | None = None) -> Labels:
        """Return the labels of the chunks of a collection, of those documents that the filter is true of."""
        condition = where(allowed or {})
        return await self.read(lambda cursor: store_query.labels_of(cursor, collection, condition))

    async def collections(self) -> list[CollectionRow]:
        """Return the collections, by id."""
        return await self.read(store_query.collections)

    async def collection(self, collection: str) -> CollectionRow | None:
        """Return one collection, or None."""
        return await self.read(lambda cursor: store_query.collection(cursor, collection))

    def places(self, collections: Iterable[str]) -> dict[str, Place]:
        """Return those of the collections that are there, by id, as a search has to know them."""
        return {each: self._places[each] for each in collections if each in self._places}

    async def index(self, collection: str) -> Card:
        """Tell how the index of a collection stands."""
        return await self._indexes.card(collection)

    async def index_labels(self, collection: str) -> Labels:
        """Return the labels that the index of a collection has, rising."""
        return await self._indexes.labels(collection)

    async def rebuild(self, collection: str) -> None:
        """Build the index of a collection anew from its rows."""
        await self._indexes.rebuild(collection)

    async def documents(self, collection: str, allowed: Filter, limit: int, after: str | None) -> list[DocumentCard]:
        """Return up to `limit` documents by id, of those behind `after`. Raises `RefusedError`."""
        condition = where(allowed)
        return await self.read(lambda cursor: store_query.documents(cursor, collection, condition, limit, after))

    async def document(self, collection: str, document_id: str) -> DocumentCard | None:
        """Return one document, or None."""
        return await self.read(lambda cursor: store_query.document(cursor, collection, document_id))

    async def known(
        self, collection: str, ids: Iterable[str], allowed: Filter | None = None
    ) -> dict[str, DocumentCard]:
        """Return those documents of these ids that are there, and that the filter is true of. Raises `RefusedError`."""
        condition = where(allowed or {})
        return await self.read(lambda cursor: store_query.known(cursor, collection, ids, condition))

    async def document_ids(self, collection: str, allowed: Filter) -> list[str]:
        """Return the ids of the documents that the filter is true of. Raises `RefusedError`."""
        condition = where(allowed)
        return await self.read(lambda cursor: store_query.document_ids(cursor, collection, condition))

    async def chunk(self, collection: str, chunk_id: str) -> Row | None:
        """Return one chunk with the section around it, or None."""
        return await self.read(lambda cursor: store_rows.chunk(cursor, collection, chunk_id))

    async def named(self, blobs: Iterable[str]) -> set[str]:
        """Return those of the blobs that some document has."""
        return await self.read(lambda cursor: store_query.named_blobs(cursor, blobs))

    # As `indexes.VectorStore`.

    @property
    def generation(self) -> str:
        """Another one for each new file of the store."""
        return self._store.generation

    async def last_label(self) -> int:
        """Return the highest label that was ever given; -1 if none was."""
        return await self.read(store_query.last_label)

    async def dimensions(self) -> Mapping[str, int]:
        """Return how long vectors are, by collection."""
        return {row.collection: row.dimensions for row in await self.collections()}

    async def vectors(self, collection: str, after_label: int, limit: int) -> tuple[Labels, Vectors]:
        """Return the next rows of the collection behind `after_label`."""
        return await self.read(lambda cursor: store_query.vectors_of(cursor, collection, after_label, limit))

    @property
    def _store(self) -> Store:
        assert self._opened is not None  # noqa: S101 - open comes first
        return self._opened

    def _read_places(self) -> dict[str, Place]:
        with self._store.cursor() as cursor:
            return store_query.places(cursor)

    async def _on_writer(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)
