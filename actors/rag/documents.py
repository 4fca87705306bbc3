"""What is told of collections and documents, and how they are deleted.

Leaves taking documents in to ingest.py, and finding what they say to retrieval.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

from actors.pages import page
from actors.rag.going_on import going_on
from actors.rag.hits import hit
from actors.rag.library import Library
from actors.rag.scope import collection_id, is_visible
from actors.rag.shelf import Shelf
from actors.rag.store_query import CollectionRow
from actors.rag.verify import verify
from actors.rag.writer import Known, Writer
from bus.client import Bus
from bus.errors import RefusedError
from bus.frames import Status
from bus.ids import new_id
from bus.messages.rag import Filter, Hit
from bus.messages.rag_documents import (
    CollectionCard,
    CollectionList,
    CollectionRemoved,
    DeleteCollection,
    DeleteDocuments,
    DocumentCard,
    DocumentList,
    DocumentsDeleted,
    GetChunk,
    GetCollection,
    GetDocument,
    IndexCard,
    ListCollections,
    ListDocuments,
    RebuildCollection,
    Verified,
    VerifyCollection,
)
from bus.serve import Caller
from bus.streams import stream_last_seq
from eventlog.rag_events import CollectionDeleted, DocumentDeleted, RagEvent

# Ids that one message tells of.
_MOST_TOLD = 1000
# Documents of one request that are deleted at a time.
_AT_ONCE = 100
# A rebuild tells so often how it stands, in seconds.
_PERIOD = 1.0


class Documents:
    """Answers for the collections of one library."""

    def __init__(
        self, bus: Bus, instance: str, library: Library, writer: Writer, shelf: Shelf, *, is_private: bool
    ) -> None:
        self._bus = bus
        self._instance = instance
        self._library = library
        self._writer = writer
        self._shelf = shelf
        self._is_private = is_private

    async def list_collections(self, _: ListCollections, caller: Caller) -> AsyncGenerator[CollectionList]:
        """Answer with all collections that the caller may see."""
        rows = await self._library.collections()
        mine = [row for row in rows if is_visible(row.collection, caller.key, is_private=self._is_private)]
        last = await stream_last_seq(self._bus.nc, "RAG")
        yield CollectionList(collections=tuple([await self._card(row, last) for row in mine]))

    async def get_collection(self, request: GetCollection, caller: Caller) -> AsyncGenerator[CollectionCard]:
        """Answer with one collection."""
        yield await self._told(request.collection, caller)

    async def delete_collection(self, request: DeleteCollection, caller: Caller) -> AsyncGenerator[CollectionRemoved]:
        """Answer when nobody finds the collection any more, and its blobs are gone."""
        collection = self._id(request.collection, caller)
        row: CollectionRow | None = None

        async def decide(_: int) -> RagEvent | None:
            nonlocal row
            row = await self._collection(request.collection, caller)
            return CollectionDeleted(id=new_id(), at=datetime.now(UTC), collection=collection)

        await self._writer.record(collection, "-", decide)
        # Documents have come until then, of which nobody has heard here.
        await self._shelf.tidy()
        assert row is not None  # noqa: S101 - it was there, or `decide` had raised
        yield CollectionRemoved(
            collection=request.collection, documents_deleted=row.documents, chunks_deleted=row.chunks
        )

    async def rebuild_collection(self, request: RebuildCollection, caller: Caller) -> AsyncGenerator[CollectionCard]:
        """Build the index anew; tell how it stands meanwhile, and at the end."""
        collection = (await self._collection(request.collection, caller)).collection
        building = asyncio.ensure_future(self._library.rebuild(collection))
        try:
            while not building.done():
                yield await self._told(request.collection, caller)
                await asyncio.wait((building,), timeout=_PERIOD)
            building.result()
        finally:
            building.cancel()
        yield await self._told(request.collection, caller)

    async def verify_collection(self, request: VerifyCollection, caller: Caller) -> AsyncGenerator[Verified | Status]:
        """Compare the collection with the log."""
        row = await self._collection(request.collection, caller)
        work = verify(self._bus, self._library, self._shelf.blobs, row)
        async with aclosing(going_on(work, self._instance)) as items:
            async for item in items:
                yield item

    async def list_documents(self, request: ListDocuments, caller: Caller) -> AsyncGenerator[DocumentList]:
        """Answer with a page of the documents."""
        row = await self._collection(request.collection, caller)
        found = await self._library.documents(row.collection, request.filter, request.limit + 1, request.after)
        documents, has_more = page(found, lambda card: card.document_id, after=None, limit=request.limit)
        yield DocumentList(documents=documents, has_more=has_more)

    async def get_document(self, request: GetDocument, caller: Caller) -> AsyncGenerator[DocumentCard]:
        """Answer with one document."""
        row = await self._collection(request.collection, caller)
        yield await self._document(row.collection, request.document_id)

    async def delete_documents(self, request: DeleteDocuments, caller: Caller) -> AsyncGenerator[DocumentsDeleted]:
        """Answer when nobody finds the documents any more, and their blobs are gone."""
        if (request.document_id is None) == (not request.filter):
            raise RefusedError("invalid_request", "Give either a 'document_id' or a 'filter'.", param="document_id")
        collection = (await self._collection(request.collection, caller)).collection
        if request.document_id is not None:
            await self._document(collection, request.document_id)
            ids: Sequence[str] = (request.document_id,)
        else:
            ids = await self._library.document_ids(collection, request.filter)
        deleted = list[DocumentCard]()
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            known = await self._writer.known(collection, some, request.filter)
            cards = await asyncio.gather(*(self._delete(collection, each, known, request.filter) for each in some))
            deleted += [card for card in cards if card is not None]
        await self._shelf.remove({blob for card in deleted for blob in (card.source_blob, card.contents_blob)})
        yield DocumentsDeleted(
            collection=request.collection,
            document_ids=tuple(card.document_id for card in deleted[:_MOST_TOLD]),
            documents_deleted=len(deleted),
            chunks_deleted=sum(card.chunks for card in deleted),
        )

    async def get_chunk(self, request: GetChunk, caller: Caller) -> AsyncGenerator[Hit]:
        """Answer with one chunk and the section around it."""
        collection = (await self._collection(request.collection, caller)).collection
        row = await self._library.chunk(collection, request.chunk_id)
        if row is None:
            message = f"The collection '{request.collection}' has no chunk '{request.chunk_id[:80]}'."
            raise RefusedError("chunk_not_found", message, param="chunk_id")
        yield hit(row, 0.0)

    def _id(self, name: str, caller: Caller) -> str:
        return collection_id(name, caller.key, is_private=self._is_private)

    async def _collection(self, name: str, caller: Caller) -> CollectionRow:
        row = await self._library.collection(self._id(name, caller))
        if row is None:
            raise RefusedError("collection_not_found", f"There is no collection '{name}'.", param="collection")
        return row

    async def _told(self, name: str, caller: Caller) -> CollectionCard:
        last = await stream_last_seq(self._bus.nc, "RAG")
        return await self._card(await self._collection(name, caller), last)

    async def _card(self, row: CollectionRow, last: int) -> CollectionCard:
        """Return how a collection stands, when the log has events up to `last`."""
        card = await self._library.index(row.collection)
        return CollectionCard(
            name=row.name,
            document_count=row.documents,
            chunk_count=row.chunks,
            created_at=row.created_at,
            updated_at=row.updated_at,
            embedding_model=row.model,
            dimensions=row.dimensions,
            index=IndexCard(
                kind=card.kind,
                state=card.state,
                rows=row.chunks,
                vectors=card.vectors,
                deleted=card.deleted,
                lag=max(last - self._library.checkpoint, 0),
                snapshot_at=card.snapshot_at,
            ),
        )

    async def _document(self, collection: str, document_id: str) -> DocumentCard:
        card = await self._library.document(collection, document_id)
        if card is None:
            message = f"The collection has no document '{document_id[:80]}'."
            raise RefusedError("document_not_found", message, param="document_id")
        return card

    async def _delete(self, collection: str, document_id: str, known: Known, allowed: Filter) -> DocumentCard | None:
        """Record that the document is deleted, and return it; None if somebody else has, or put another there."""
        card = known.cards.get(document_id)

        async def decide(last: int) -> RagEvent | None:
            nonlocal card
            if last > known.at:
                card = (await self._library.known(collection, [document_id], allowed)).get(document_id)
            if card is None:
                return None
            return DocumentDeleted(id=new_id(), at=datetime.now(UTC), collection=collection, document_id=document_id)

        await self._writer.record(collection, document_id, decide)
        return card
