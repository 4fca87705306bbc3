"""The events of RAG: what documents a collection holds. They are kept without an age (docs/adr/0020)."""

from datetime import datetime

from msgspec import Struct


class CollectionCreated(Struct, frozen=True, kw_only=True, tag_field="type", tag="rag.collection_created"):
    """A collection was made, whose vectors are `model`'s and have so many `dimensions`.

    `name` is what its users call it; `collection` adds the fingerprint of the API key where collections are private.
    """

    id: str
    at: datetime
    collection: str
    name: str
    model: str
    dimensions: int
    key: str | None = None
    v: int = 1


class DocumentStored(Struct, frozen=True, kw_only=True, tag_field="type", tag="rag.document_stored"):
    """A document is in the collection, in place of any that had its id.

    `source_blob` names what was given, `contents_blob` its text, chunks and vectors (actors/rag/contents.py);
    `content_hash` is the SHA-256 of what was given together with how it was to be cut.
    """

    id: str
    at: datetime
    collection: str
    document_id: str
    filename: str
    source_blob: str
    contents_blob: str
    content_hash: str
    chunks: int
    v: int = 1


class DocumentDeleted(Struct, frozen=True, kw_only=True, tag_field="type", tag="rag.document_deleted"):
    """Nobody may find the document any more."""

    id: str
    at: datetime
    collection: str
    document_id: str
    v: int = 1


class CollectionDeleted(Struct, frozen=True, kw_only=True, tag_field="type", tag="rag.collection_deleted"):
    """Nobody may find the collection, or any document that was stored in it before, any more."""

    id: str
    at: datetime
    collection: str
    v: int = 1


RagEvent = CollectionCreated | DocumentStored | DocumentDeleted | CollectionDeleted
