"""/api/rag/documents and the documents of a collection: what is there, what it says, one more, and none any more."""

from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from bus.errors import LostError, RefusedError
from bus.messages.rag import Filter, Metadata
from bus.messages.rag_documents import (
    DeleteDocuments,
    DocumentCard,
    DocumentOutcome,
    DocumentStatus,
    GetChunk,
    GetDocument,
    IngestResult,
    ListDocuments,
)
from bus.subjects import DELETE_DOCUMENTS, GET_CHUNK, GET_DOCUMENT, INGEST_DOCUMENTS, LIST_DOCUMENTS
from http_edge.context import RAG_BLOBS
from http_edge.errors import code_of
from http_edge.portions import naming
from http_edge.rag import ask_rag, json_object, require_rag, source_of
from http_edge.rag_documents import read_document
from http_edge.wire import json_response, read_optional_body, read_query
from http_edge.writing import large_response


class Page(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of the documents a client wants: those behind `after` for which `filter`, in JSON, is true."""

    filter: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: str | None = None


class Wanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a document a client wants instead of what is known about it: its text, or what was given."""

    content: Literal["text", "source"] | None = None


class Filtered(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For which documents a filter has to be true."""

    filter: Filter | None = None


class FilteredByQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same in the query, as JSON."""

    filter: str | None = None


class Document(Struct, frozen=True, kw_only=True):
    """What is known about a document."""

    document_id: str
    collection: str
    filename: str
    chunk_count: int
    pages: int
    stored_at: datetime
    content_hash: str
    metadata: Metadata


class Documents(Struct, frozen=True, kw_only=True):
    """A part of the documents, by id. `next_after` is for the part behind it; null when there is none."""

    collection: str
    documents: tuple[Document, ...]
    next_after: str | None


class Put(Struct, frozen=True, kw_only=True):
    """What became of a document that was put."""

    collection: str
    document_id: str
    status: DocumentStatus
    chunks_created: int
    pages: int
    truncated_chunks: int
    embedding_time_ms: int
    chunk_size: int
    overlap: int


class Deleted(Struct, frozen=True, kw_only=True):
    """A document that nobody finds any more."""

    collection: str
    document_id: str
    chunks_deleted: int
    status: str = "deleted"


class DeletedByFilter(Struct, frozen=True, kw_only=True):
    """Documents that nobody finds any more; of very many, `document_ids` are the first."""

    collection: str
    document_ids: tuple[str, ...]
    documents_deleted: int
    chunks_deleted: int
    status: str = "deleted"


class Contents(Struct, frozen=True, kw_only=True):
    """What the edge reads of a document's contents blob, which is MessagePack (actors/rag/contents.py)."""

    text: str


async def list_page(request: web.Request) -> web.StreamResponse:
    """List the documents of a collection."""
    page = read_query(request, Page)
    collection = request.match_info["collection"]
    message = ListDocuments(
        collection=collection, filter=json_object(page.filter, "filter"), limit=page.limit, after=page.after
    )
    reply = await ask_rag(request, LIST_DOCUMENTS(), message)
    documents = tuple(map(_document, reply.documents))
    next_after = documents[-1].document_id if reply.has_more else None
    return json_response(Documents(collection=collection, documents=documents, next_after=next_after))


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Tell about a document, or give what it says."""
    wanted = read_query(request, Wanted)
    collection, document_id = _path(request)
    message = GetDocument(collection=collection, document_id=document_id)
    card = await ask_rag(request, GET_DOCUMENT(), message)
    match wanted.content:
        case None:
            return json_response(_document(card))
        case "text":
            content = await request.app[RAG_BLOBS].get(card.contents_blob)
            if content is None:
                raise _gone(card)
            text = _contents.decode(content).text.encode()
            return await large_response(request, text, "text/plain; charset=utf-8")
        case "source":
            path = await request.app[RAG_BLOBS].find(card.source_blob)
            if path is None:
                raise _gone(card)
            attached = f"attachment; filename*=UTF-8''{quote(card.filename or 'document', safe='')}"
            headers = {"Content-Type": "application/octet-stream", "Content-Disposition": attached}
            return web.FileResponse(path, headers=headers)


async def put(request: web.Request) -> web.StreamResponse:
    """Store a document under its id, in place of any that had it; answer when a search finds it."""
    await require_rag(request)
    asked = await read_document(request, *_path(request))
    with naming(lambda param: _NAMES.get(param, param), too_large="metadata"):
        result = (await ask_rag(request, INGEST_DOCUMENTS(), asked.message)).result
    if result is None:
        raise LostError("stream_broken", "The document was stored, and no result came.")
    return json_response(_put(result, asked.param))


async def delete(request: web.Request) -> web.StreamResponse:
    """Let nobody find a document any more."""
    collection, document_id = _path(request)
    message = DeleteDocuments(collection=collection, document_id=document_id)
    gone = await ask_rag(request, DELETE_DOCUMENTS(), message)
    return json_response(Deleted(collection=collection, document_id=document_id, chunks_deleted=gone.chunks_deleted))


async def delete_filtered(request: web.Request) -> web.StreamResponse:
    """Let nobody find those documents any more for which a filter is true, given in the body or in the query."""
    in_query = read_query(request, FilteredByQuery).filter
    in_body = (await read_optional_body(request, _filtered)).filter
    if in_query is not None and in_body is not None:
        raise RefusedError("invalid_request", "Give the 'filter' in the query or in the body.", param="filter")
    said = in_body or json_object(in_query, "filter")
    if not said:
        reason = "Give a 'filter'. DELETE /api/rag/collections/{collection} deletes all documents."
        raise RefusedError("invalid_request", reason, param="filter")
    message = DeleteDocuments(collection=request.match_info["collection"], filter=said)
    gone = await ask_rag(request, DELETE_DOCUMENTS(), message)
    return json_response(
        DeletedByFilter(
            collection=gone.collection,
            document_ids=gone.document_ids,
            documents_deleted=gone.documents_deleted,
            chunks_deleted=gone.chunks_deleted,
        )
    )


async def chunk(request: web.Request) -> web.StreamResponse:
    """Tell about a chunk, with the section around it."""
    message = GetChunk(collection=request.match_info["collection"], chunk_id=request.match_info["chunk_id"])
    return json_response(source_of(await ask_rag(request, GET_CHUNK(), message), with_score=False))


def _path(request: web.Request) -> tuple[str, str]:
    """Return the collection and the id in the path. Whether there can be such is for the actor to say."""
    return request.match_info["collection"], request.match_info["document_id"]


def _document(card: DocumentCard) -> Document:
    return Document(
        document_id=card.document_id,
        collection=card.collection,
        filename=card.filename,
        chunk_count=card.chunks,
        pages=card.pages,
        stored_at=card.stored_at,
        content_hash=card.content_hash,
        metadata=card.metadata,
    )


def _put(result: IngestResult, param: str) -> Put:
    """Return what became of the only document. Raises `RefusedError` when it could not be stored."""
    (outcome,) = result.documents
    if outcome.status == "failed" or outcome.document_id is None:
        raise _failed(outcome, param)
    return Put(
        collection=result.collection,
        document_id=outcome.document_id,
        status=outcome.status,
        chunks_created=result.chunks_created,
        pages=outcome.pages,
        truncated_chunks=outcome.truncated_chunks,
        embedding_time_ms=result.embedding_time_ms,
        chunk_size=result.chunk_size,
        overlap=result.overlap,
    )


def _failed(outcome: DocumentOutcome, param: str) -> RefusedError:
    # What it says has another name here, such as `file`.
    param = "metadata" if outcome.param == "metadata" else param
    return RefusedError(code_of(outcome.code), outcome.error or "The document could not be stored.", param=param)


def _gone(card: DocumentCard) -> RefusedError:
    return RefusedError(
        "document_not_found", f"What the document '{card.document_id}' says is gone.", param="document_id"
    )


# What the rag actor calls otherwise than clients do.
_NAMES = {"documents[0].document_id": "document_id"}

_filtered = msgspec.json.Decoder(Filtered)
_contents = msgspec.msgpack.Decoder(Contents)

ROUTES = [
    web.get("/api/rag/collections/{collection}/documents", list_page),
    web.delete("/api/rag/collections/{collection}/documents", delete_filtered),
    web.get("/api/rag/documents/{collection}/{document_id:(?s:.+)}", retrieve),
    web.put("/api/rag/documents/{collection}/{document_id:(?s:.+)}", put),
    web.delete("/api/rag/documents/{collection}/{document_id:(?s:.+)}", delete),
    web.get("/api/rag/chunks/{collection}/{chunk_id:(?s:.+)}", chunk),
]
