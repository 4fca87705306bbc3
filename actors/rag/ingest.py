"""Takes documents in: reads each, records that it is stored, and tells of it when a search finds it.

Leaves reading to reading.py, and what is recorded to the writer. As many documents are read at once as there is
room for, however many are given and by however many.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from itertools import islice

import msgspec
from msgspec import Struct

from actors.rag.config import RagConfig
from actors.rag.contents import encode
from actors.rag.embedders import PASSING, Embedder
from actors.rag.library import Library
from actors.rag.reading import How, OnEmbedded, Reader
from actors.rag.room import Room
from actors.rag.scope import collection_id
from actors.rag.shelf import Pins, Shelf
from actors.rag.writer import Known, Writer
from bus.blobs import Blobs, blob_name
from bus.errors import RefusedError
from bus.ids import new_id
from bus.messages.rag_documents import (
    DocumentCard,
    DocumentOutcome,
    DocumentSource,
    IngestDocuments,
    IngestProgress,
    IngestResult,
)
from bus.serve import Caller
from eventlog.rag_events import CollectionCreated, DocumentStored, RagEvent

# Documents that are read at a time, by the bytes of their files: each is in memory as a whole, and so is what it says.
_READ_BYTES = 64 * 2**20
_LEAST_BYTES = 2 * 2**20
# Documents of one asker that are begun together, when fewer are under way; those that were read are recorded, and taken
# in, together.
_AT_ONCE = 32
# While no document is done, the asker hears so often that it goes on, in seconds.
_PERIOD = 1.0
_METADATA_BYTES = 64 * 1024
# All outcomes are told in one message.
_ERROR_CHARACTERS = 200

# With these nothing more can be stored now: the whole ends, and as a job it is tried again.
_ENDING = PASSING | {"storage_full"}


class _Done(Struct, frozen=True, kw_only=True):
    outcome: DocumentOutcome
    embedding_seconds: float = 0.0


class _Kept(Struct, frozen=True, kw_only=True):
    """What is told of a document that was read; the rest is in its blob."""

    contents_blob: str
    chunks: int
    pages: int
    truncated_chunks: int
    embedding_seconds: float


class _Progress:
    """How far documents are that take long."""

    def __init__(self) -> None:
        self.detail = ""

    def embedded(self, source: DocumentSource, done: int, total: int) -> None:
        """Hear that so many chunks of a document have their vectors."""
        self.detail = f"{source.filename or source.document_id or 'text'}: {done:,} of {total:,} chunks embedded"


class Ingest:
    """Fills one library. What is given lies in `given`, what is kept goes onto the shelf."""

    def __init__(
        self, library: Library, writer: Writer, shelf: Shelf, given: Blobs, reader: Reader, config: RagConfig
    ) -> None:
        self._library = library
        self._writer = writer
        self._shelf = shelf
        self._given = given
        self._reader = reader
        self._embedders = reader.embedders
        self._is_private = config.private_collections
        self._room = Room(_READ_BYTES, _LEAST_BYTES)

    async def receive(self, request: IngestDocuments, caller: Caller) -> AsyncGenerator[IngestProgress]:
        """Store the documents, and tell of each, in the order in which they are done.

        One that cannot be stored is told as failed, and the others are stored. Raises `RefusedError` for what is wrong
        with all, and `LostError`; what was stored by then stays, and is unchanged when the same is asked again.
        """
        _check(request)
        collection = collection_id(request.collection, caller.key, is_private=self._is_private)
        total = len(request.documents)
        # At once, for nobody waits long to be heard, and who has heard nothing cannot end it.
        yield IngestProgress(done=0, total=total)
        progress = _Progress()
        how = await self._how(request, collection, caller.key, progress.embedded)
        waiting = iter(enumerate(request.documents))
        running: dict[asyncio.Task[_Done], int] = {}
        done: dict[int, _Done] = {}
        try:
            while len(done) < total:
                if len(running) < _AT_ONCE and (some := list(islice(waiting, _AT_ONCE))):
                    known = await self._known([source for _, source in some], how)
                    running |= {asyncio.create_task(self._document(each, how, known)): number for number, each in some}
                ended, _ = await asyncio.wait(running, timeout=_PERIOD, return_when=asyncio.FIRST_COMPLETED)
                if not ended:
                    yield IngestProgress(done=len(done), total=total, detail=progress.detail)
                for task in ended:
                    number = running.pop(task)
                    done[number] = task.result()
                    yield IngestProgress(done=len(done), total=total, document=done[number].outcome)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        result = _result(request.collection, [done[number] for number in range(total)], how)
        yield IngestProgress(done=total, total=total, result=result)

    async def _how(self, request: IngestDocuments, collection: str, key: str | None, on_embedded: OnEmbedded) -> How:
        """Return how the documents are read, by the model of the collection, which is made if there is none."""
        embedder = await self._embedder(request, collection, key)
        chunk_size = min(request.chunk_size, embedder.most_tokens)
        return How(
            collection=collection,
            embedder=embedder,
            chunk_size=chunk_size,
            overlap=min(request.overlap, chunk_size // 2),
            key=key,
            on_embedded=on_embedded,
        )

    async def _embedder(self, request: IngestDocuments, collection: str, key: str | None) -> Embedder:
        known = await self._library.collection(collection)
        if known is None:
            embedder = await self._embedders.find(request.embedding_model)
            await self._create(request.collection, collection, embedder, key)
            known = await self._library.collection(collection)
            if known is None:
                message = f"The collection '{request.collection}' was deleted meanwhile."
                raise RefusedError("conflict", message, param="collection")
        embedder = await self._embedders.find(known.model)
        if embedder.dimensions != known.dimensions:
            message = (
                f"The vectors of '{known.model}' have {embedder.dimensions} numbers now; "
                f"those of the collection '{request.collection}' have {known.dimensions}."
            )
            raise RefusedError("conflict", message, param="collection")
        if request.embedding_model is not None:
            wanted = await self._embedders.find(request.embedding_model)
            if wanted.model != known.model:
                message = f"The collection '{request.collection}' has vectors of '{known.model}'."
                raise RefusedError("conflict", message, param="embedding_model")
        return embedder

    async def _create(self, name: str, collection: str, embedder: Embedder, key: str | None) -> None:
        async def decide(_: int) -> RagEvent | None:
            if await self._library.collection(collection) is not None:
                return None
            return CollectionCreated(
                id=new_id(),
                at=datetime.now(UTC),
                collection=collection,
                name=name,
                model=embedder.model,
                dimensions=embedder.dimensions,
                key=key,
            )

        await self._writer.record(collection, "-", decide)

    async def _known(self, sources: Sequence[DocumentSource], how: How) -> Known:
        ids = {_document_id(each, name) for each in sources if (name := _blob_of(each)) is not None}
        return await self._writer.known(how.collection, ids)

    async def _document(self, source: DocumentSource, how: How, known: Known) -> _Done:
        try:
            return await self._stored(source, how, known)
        except RefusedError as error:
            if error.code in _ENDING:
                raise
            failed = DocumentOutcome(
                filename=source.filename,
                status="failed",
                document_id=source.document_id,
                code=error.code,
                error=error.failure.message[:_ERROR_CHARACTERS],
                param=error.failure.param and error.failure.param[:_ERROR_CHARACTERS],
            )
            return _Done(outcome=failed)

    async def _stored(self, source: DocumentSource, how: How, known: Known) -> _Done:
        """Store one document. 1. Unchanged: nothing is done. 2. It is read, 3. and recorded, together with others."""
        name = _checked(source)
        document_id = _document_id(source, name)
        content_hash = _content_hash(source, name, how)
        there = known.cards.get(document_id)
        if there is not None and there.content_hash == content_hash:  # 1
            return _Done(outcome=_unchanged(source, there))
        blobs: set[str] = set()
        try:
            with self._shelf.pinning() as pins:
                blobs = pins.names
                pins.add(name)
                kept = await self._kept(source, document_id, name, how, pins)  # 2
                event = DocumentStored(
                    id=new_id(),
                    at=datetime.now(UTC),
                    collection=how.collection,
                    document_id=document_id,
                    filename=source.filename,
                    source_blob=name,
                    contents_blob=kept.contents_blob,
                    content_hash=content_hash,
                    chunks=kept.chunks,
                )
                before = await self._record(event, known)  # 3
        except RefusedError:
            await self._shelf.remove(blobs)
            raise
        if before is not None:
            await self._shelf.remove((*blobs, before.source_blob, before.contents_blob))
            if before.content_hash == content_hash:  # Somebody else has stored the same meanwhile.
                return _Done(outcome=_unchanged(source, before), embedding_seconds=kept.embedding_seconds)
        outcome = DocumentOutcome(
            filename=source.filename,
            status="stored" if before is None else "replaced",
            document_id=document_id,
            chunks=kept.chunks,
            pages=kept.pages,
            truncated_chunks=kept.truncated_chunks,
        )
        return _Done(outcome=outcome, embedding_seconds=kept.embedding_seconds)

    async def _kept(self, source: DocumentSource, document_id: str, name: str, how: How, pins: Pins) -> _Kept:
        """Read a document, and keep what was given and what was read."""
        if source.text is not None:
            await self._shelf.blobs.put(source.text.encode())
        path = await self._shelf.take(name, self._given)
        if path is None:
            raise RefusedError("invalid_request", "The file is gone or damaged; send it again.", param="blob")
        async with self._room.taken(path.stat().st_size):
            read = await self._reader.read(source, document_id, path, how)
            content = await asyncio.to_thread(encode, read.contents)
            contents_blob = blob_name(content)
            pins.add(contents_blob)
            await self._shelf.blobs.put(content)
        return _Kept(
            contents_blob=contents_blob,
            chunks=len(read.contents.chunks),
            pages=read.contents.pages,
            truncated_chunks=read.truncated_chunks,
            embedding_seconds=read.embedding_seconds,
        )

    async def _record(self, event: DocumentStored, known: Known) -> DocumentCard | None:
        """Record that the document is stored, and return the one in whose place it is, or that is the same."""
        before = known.cards.get(event.document_id)

        async def decide(last: int) -> RagEvent | None:
            nonlocal before
            if last > known.at:
                before = await self._library.document(event.collection, event.document_id)
            return None if before is not None and before.content_hash == event.content_hash else event

        if not await self._writer.record(event.collection, event.document_id, decide):
            raise RefusedError("conflict", "The collection of the document was deleted meanwhile.")
        return before


def _check(request: IngestDocuments) -> None:
    """Raise `RefusedError` for what is wrong with all documents, whatever is stored."""
    if request.overlap >= request.chunk_size:
        message = f"The overlap of {request.overlap} tokens is not smaller than a chunk of {request.chunk_size}."
        raise RefusedError("invalid_request", message, param="overlap")
    seen = set[str]()
    for number, source in enumerate(request.documents):
        # They are stored in any order, so that nobody could say which of them would stay.
        if source.document_id in seen:
            message = f"Another document has the id '{source.document_id[:80]}' too."
            raise RefusedError("invalid_request", message, param=f"documents[{number}].document_id")
        if source.document_id is not None:
            seen.add(source.document_id)


def _checked(source: DocumentSource) -> str:
    """Return the name of the blob of what was given. Raises `RefusedError` for what is no document."""
    if len(msgspec.json.encode(source.metadata)) > _METADATA_BYTES:
        raise RefusedError("too_large", "The metadata is larger than 64 KiB.", param="metadata")
    try:
        encode(source.metadata)
    except OverflowError as error:
        message = "The metadata has a whole number of more than 64 bits."
        raise RefusedError("invalid_request", message, param="metadata") from error
    name = _blob_of(source)
    if name is None:
        raise RefusedError("invalid_request", "A document has either a 'blob' or a 'text'.", param="text")
    return name


def _blob_of(source: DocumentSource) -> str | None:
    """Return the name of the blob of what was given; None unless it is either a blob or a text."""
    if source.text is None or source.blob is not None:
        return source.blob if source.text is None else None
    return blob_name(source.text.encode())


def _document_id(source: DocumentSource, name: str) -> str:
    return source.document_id or f"doc-{name[:32]}"


def _content_hash(source: DocumentSource, name: str, how: How) -> str:
    """Return what is another one whenever the same document would be stored in another way."""
    # The same content under another name is the same document, unless somebody gave it an id.
    filename = source.filename if source.document_id is not None else ""
    model, cut = how.embedder.model, (how.chunk_size, how.overlap)
    said = (name, filename, source.content_type, source.metadata, model, cut)
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()


def _unchanged(source: DocumentSource, known: DocumentCard) -> DocumentOutcome:
    return DocumentOutcome(
        filename=source.filename,
        status="unchanged",
        document_id=known.document_id,
        chunks=known.chunks,
        pages=known.pages,
    )


def _result(collection: str, done: list[_Done], how: How) -> IngestResult:
    outcomes = tuple(one.outcome for one in done)
    stored = [one for one in outcomes if one.status in {"stored", "replaced"}]
    return IngestResult(
        collection=collection,
        documents=outcomes,
        documents_ingested=len(stored),
        chunks_created=sum(one.chunks for one in stored),
        embedding_time_ms=round(1000 * sum(one.embedding_seconds for one in done)),
        chunk_size=how.chunk_size,
        overlap=how.overlap,
        truncated_chunks=sum(one.truncated_chunks for one in stored),
    )
