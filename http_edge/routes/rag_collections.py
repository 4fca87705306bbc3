"""/api/rag/collections: which there are, how their indexes stand, and the end of one; /rag_stats counts them."""

import msgspec
from aiohttp import web
from msgspec import Struct

from bus.messages.rag_documents import (
    CollectionCard,
    DeleteCollection,
    GetCollection,
    IndexCard,
    ListCollections,
    RebuildCollection,
    VerifyCollection,
)
from bus.subjects import (
    DELETE_COLLECTION,
    GET_COLLECTION,
    LIST_COLLECTIONS,
    REBUILD_COLLECTION,
    VERIFY_COLLECTION,
)
from http_edge.rag import ask_rag
from http_edge.wire import json_response, read_body, read_optional_body, read_query


class Nothing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """There is nothing to say of how an index is built, or compared, or of which part of a collection is deleted."""


class Collections(Struct, frozen=True, kw_only=True):
    """All collections that the client may see, by name."""

    collections: tuple[CollectionCard, ...]


class Stats(Struct, frozen=True, kw_only=True):
    """How much there is in all of them."""

    collection_count: int
    document_count: int
    chunk_count: int
    collections: tuple[CollectionCard, ...]


class Health(Struct, frozen=True, kw_only=True):
    """Whether the index of a collection has all of its chunks; "degraded" while it is built, or behind the log."""

    collection: str
    status: str
    index: IndexCard


class Deleted(Struct, frozen=True, kw_only=True):
    """A collection that nobody finds any more."""

    collection: str
    documents_deleted: int
    chunks_deleted: int
    status: str = "deleted"


class Comparison(Struct, frozen=True, kw_only=True):
    """What of a collection was compared with the log; `problems` are what does not agree, in words."""

    collection: str
    status: str
    documents: int
    chunks: int
    problems: tuple[str, ...]


async def list_all(request: web.Request) -> web.StreamResponse:
    """List the collections."""
    listed = await ask_rag(request, LIST_COLLECTIONS(), ListCollections())
    return json_response(Collections(collections=listed.collections))


async def stats(request: web.Request) -> web.StreamResponse:
    """Count what is in the collections."""
    cards = (await ask_rag(request, LIST_COLLECTIONS(), ListCollections())).collections
    return json_response(
        Stats(
            collection_count=len(cards),
            document_count=sum(card.document_count for card in cards),
            chunk_count=sum(card.chunk_count for card in cards),
            collections=cards,
        )
    )


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Tell about one collection."""
    return json_response(await _find(request))


async def health(request: web.Request) -> web.StreamResponse:
    """Tell how the index of a collection stands."""
    card = await _find(request)
    is_whole = card.index.state == "ready" and not card.index.lag
    return json_response(Health(collection=card.name, status="healthy" if is_whole else "degraded", index=card.index))


async def delete(request: web.Request) -> web.StreamResponse:
    """Let nobody find a collection any more. Raises `RefusedError` for a filter, which is of another route."""
    read_query(request, Nothing)
    if request.can_read_body:
        await read_body(request, _nothing)
    gone = await ask_rag(request, DELETE_COLLECTION(), DeleteCollection(collection=_name(request)))
    return json_response(
        Deleted(
            collection=gone.collection,
            documents_deleted=gone.documents_deleted,
            chunks_deleted=gone.chunks_deleted,
        )
    )


async def rebuild(request: web.Request) -> web.StreamResponse:
    """Build the index of a collection anew, and tell how it stands then. It goes on when the client has left."""
    await read_optional_body(request, _nothing)
    card = await ask_rag(request, REBUILD_COLLECTION(), RebuildCollection(collection=_name(request)))
    return json_response(card)


async def verify(request: web.Request) -> web.StreamResponse:
    """Compare a collection with the log."""
    await read_optional_body(request, _nothing)
    found = await ask_rag(request, VERIFY_COLLECTION(), VerifyCollection(collection=_name(request)))
    return json_response(
        Comparison(
            collection=found.collection,
            status="inconsistent" if found.problems else "consistent",
            documents=found.documents,
            chunks=found.chunks,
            problems=found.problems,
        )
    )


async def _find(request: web.Request) -> CollectionCard:
    return await ask_rag(request, GET_COLLECTION(), GetCollection(collection=_name(request)))


def _name(request: web.Request) -> str:
    return request.match_info["collection"]


_nothing = msgspec.json.Decoder(Nothing)

ROUTES = [
    web.get("/api/rag/collections", list_all),
    web.get("/api/rag/collections/{collection}", retrieve),
    web.get("/api/rag/collections/{collection}/health", health),
    web.delete("/api/rag/collections/{collection}", delete),
    web.post("/api/rag/collections/{collection}/rebuild", rebuild),
    web.post("/api/rag/collections/{collection}/verify", verify),
    web.get("/rag_stats", stats),
]
