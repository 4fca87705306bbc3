"""Documents that clients send, as forms with files or as JSON: what they say goes into blobs as it comes."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from bus.blobs import Write
from bus.decoding import refusal
from bus.errors import RefusedError
from bus.messages.rag import CollectionName, DocumentId, Metadata
from bus.messages.rag_documents import (
    CHUNKS_TYPE,
    MOST_DOCUMENTS,
    ChunkSize,
    DocumentSource,
    GivenChunk,
    IngestDocuments,
    Overlap,
)
from http_edge.context import BLOBS, CONFIG
from http_edge.rag import json_object
from http_edge.upload import Form, Room, read_form
from http_edge.wire import Listed, ModelName, read_body

FormT = TypeVar("FormT", bound="DocumentForm")

Filename = Annotated[str, Meta(max_length=255)]
Chunks = Annotated[tuple[Annotated[str, Meta(min_length=1)] | GivenChunk, ...], Meta(min_length=1), Listed]

# Of the fields of a form, the most bytes.
_LONGEST = {"metadata": 64 * 1024}
_SHORT = 1024

_HOW = ("chunk_size", "overlap", "embedding_model")


class How(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How documents are cut, and by which model a collection that is to be made is embedded."""

    chunk_size: ChunkSize | None = None
    overlap: Overlap | None = None
    embedding_model: ModelName | None = None


class DocumentForm(How, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a form says beside its file; `metadata` is a JSON object, for each of several files."""

    metadata: str | None = None


class FilesForm(DocumentForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same for several files. With `wait` the answer comes when they are stored."""

    collection: CollectionName = "default"
    wait: bool | None = None


class DocumentBody(How, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A document in JSON: its `text`, or its `chunks`, cut by the client and perhaps embedded."""

    text: str | None = None
    chunks: Chunks | None = None
    filename: Filename = ""
    metadata: Metadata = {}
    content_type: str | None = None


class ListedDocument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several documents in JSON. Without a `document_id` it gets one from its content."""

    text: str | None = None
    chunks: Chunks | None = None
    document_id: DocumentId | None = None
    filename: Filename = ""
    metadata: Metadata = {}
    content_type: str | None = None


class DocumentsBody(How, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several documents in JSON. With `wait` the answer comes when they are stored."""

    documents: Annotated[tuple[ListedDocument, ...], Meta(min_length=1, max_length=MOST_DOCUMENTS)]
    collection: CollectionName = "default"
    wait: bool | None = None


class Ingest(Struct, frozen=True, kw_only=True):
    """What the rag actor is to be asked, what the client calls its documents, and whether it waits."""

    message: IngestDocuments
    param: str
    wait: bool | None = None


async def read_documents(request: web.Request) -> Ingest:
    """Return the documents in the body, which are in blobs by then; nothing is left of a body that is refused.

    Raises `RefusedError` that names the field at fault, and `web.HTTPException` when the body does not come in time.
    """
    async with request.app[BLOBS].writing_together() as write:
        if request.content_type == "multipart/form-data":
            form = await read_form(request, _room(request, FilesForm, ("files", "file"), MOST_DOCUMENTS), write)
            said = _said(form, FilesForm)
            sources = _files(form, said.metadata, "files")
            message = IngestDocuments(collection=said.collection, documents=sources, **_how(said))
            return Ingest(message=message, param="files", wait=said.wait)
        body = await read_body(request, _documents_body)
        found = [
            await _source(write, document, document.document_id, f"documents[{number}].")
            for number, document in enumerate(body.documents)
        ]
        message = IngestDocuments(collection=body.collection, documents=tuple(found), **_how(body))
        return Ingest(message=message, param="documents", wait=body.wait)


async def read_document(request: web.Request, collection: str, document_id: str) -> Ingest:
    """Return the one document in the body, with this id. Raises as `read_documents` does."""
    async with request.app[BLOBS].writing_together() as write:
        if request.content_type == "multipart/form-data":
            form = await read_form(request, _room(request, DocumentForm, ("file",), 1), write)
            said = _said(form, DocumentForm)
            (source,) = _files(form, said.metadata, "file")
            source = msgspec.structs.replace(source, document_id=document_id)
            message = IngestDocuments(collection=collection, documents=(source,), **_how(said))
            return Ingest(message=message, param="file")
        body = await read_body(request, _document_body)
        source = await _source(write, body, document_id, "")
        message = IngestDocuments(collection=collection, documents=(source,), **_how(body))
        return Ingest(message=message, param="text" if body.chunks is None else "chunks")


def _room(request: web.Request, kind: type[DocumentForm], names: tuple[str, ...], count: int) -> Room:
    config = request.app[CONFIG]
    return Room(
        names=names,
        file_bytes=config.max_document_bytes,
        fields={field: _LONGEST.get(field, _SHORT) for field in kind.__struct_fields__},
        count=count,
        all_bytes=config.max_ingest_bytes if count > 1 else None,
    )


def _said(form: Form, kind: type[FormT]) -> FormT:
    try:
        return msgspec.convert(form.fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise refusal(error, kind) from error


def _how(said: How) -> dict[str, Any]:
    return {name: value for name in _HOW if (value := getattr(said, name)) is not None}


def _files(form: Form, metadata: str | None, param: str) -> tuple[DocumentSource, ...]:
    if not form.files:
        raise RefusedError("invalid_request", "The form has no file.", param=param)
    about = json_object(metadata, "metadata")
    return tuple(
        DocumentSource(filename=file.filename, blob=file.draft.name, content_type=file.content_type, metadata=about)
        for file in form.files
    )


async def _source(
    write: Write, document: DocumentBody | ListedDocument, document_id: str | None, where: str
) -> DocumentSource:
    """Return the document that stands at `where`, with what it says in a blob."""
    if (document.text is None) == (document.chunks is None):
        message = "A document has either a 'text' or 'chunks'."
        raise RefusedError("invalid_request", message, param=f"{where}text")
    if document.chunks is not None and document.content_type is not None:
        message = "'content_type' is for a 'text', not for 'chunks'."
        raise RefusedError("invalid_request", message, param=f"{where}content_type")
    content_type = document.content_type
    if document.chunks is not None:
        content, content_type = _given(document.chunks), CHUNKS_TYPE
    else:
        content = (document.text or "").encode()
        content_type = content_type or (None if document.filename else "text/plain")
    async with write() as draft:
        await asyncio.to_thread(draft.write, content)
    return DocumentSource(
        filename=document.filename,
        document_id=document_id,
        blob=draft.name,
        content_type=content_type,
        metadata=document.metadata,
    )


def _given(chunks: Sequence[str | GivenChunk]) -> bytes:
    return _encode([GivenChunk(text=chunk) if isinstance(chunk, str) else chunk for chunk in chunks])


_documents_body = msgspec.json.Decoder(DocumentsBody)
_document_body = msgspec.json.Decoder(DocumentBody)
_encode = msgspec.json.Encoder().encode
