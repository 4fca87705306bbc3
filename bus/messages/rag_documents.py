"""What is said with the rag actor about collections and their documents."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from bus.messages.embeddings import BlobName
from bus.messages.rag import CollectionName, DocumentId, Filter, Metadata

# The content type of a document that comes in pieces: a JSON array of `GivenChunk`.
CHUNKS_TYPE = "application/vnd.fusion.chunks+json"

ChunkSize = Annotated[int, Meta(ge=16, le=8192)]
Overlap = Annotated[int, Meta(ge=0, le=4096)]
MOST_DOCUMENTS = 1000

DocumentStatus = Literal["stored", "replaced", "unchanged", "failed"]
IndexState = Literal["ready", "rebuilding"]


class GivenChunk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A chunk that somebody else has cut, and perhaps embedded."""

    text: Annotated[str, Meta(min_length=1)]
    embedding: tuple[float, ...] | None = None


class DocumentSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A document as it is given: in a blob, or as `text`. What it is, is told by `content_type`, or its `filename`.

    Without a `document_id` it gets one from its content, so that the same content is stored once.
    """

    filename: Annotated[str, Meta(max_length=255)] = ""
    document_id: DocumentId | None = None
    blob: BlobName | None = None
    text: str | None = None
    content_type: str | None = None
    metadata: Metadata = {}


class IngestDocuments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Store these documents in a collection, which is made if there is none, in chunks of up to `chunk_size` tokens.

    A chunk has no more tokens than the embedding model reads. `overlap` tokens are in two neighbours. A document whose
    id is there is replaced, unless nothing would change. `embedding_model` is for a collection that is to be made.
    """

    documents: Annotated[tuple[DocumentSource, ...], Meta(min_length=1, max_length=MOST_DOCUMENTS)]
    collection: CollectionName = "default"
    chunk_size: ChunkSize = 512
    overlap: Overlap = 64
    embedding_model: str | None = None


class DocumentOutcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one document; `code` and `error` say why one has failed, and `param` in which field, if in one."""

    filename: str
    status: DocumentStatus
    document_id: str | None = None
    chunks: int = 0
    pages: int = 0
    truncated_chunks: int = 0
    code: str | None = None
    error: str | None = None
    param: str | None = None


class IngestResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of all documents, in their order. `chunk_size` and `overlap` are what was done, in tokens."""

    collection: str
    documents: tuple[DocumentOutcome, ...]
    documents_ingested: int
    chunks_created: int
    embedding_time_ms: int
    chunk_size: int
    overlap: int
    truncated_chunks: int = 0


class IngestProgress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`done` of `total` documents have been dealt with, the last of them `document`. The last one has the `result`.

    `detail` says in words how far one is that takes long.
    """

    done: int
    total: int
    document: DocumentOutcome | None = None
    detail: str = ""
    result: IngestResult | None = None


class ListCollections(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell which collections there are."""


class GetCollection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell about this collection."""

    collection: CollectionName


class IndexCard(Struct, frozen=True, kw_only=True):
    """How an index of vectors stands against the rows that it is made from.

    `deleted` are still in it but never found. `lag` is how many events of the log it is behind. `kind` is "hnsw" or
    "exact".
    """

    kind: str
    state: IndexState
    rows: int
    vectors: int
    deleted: int
    lag: int
    snapshot_at: datetime | None = None


class CollectionCard(Struct, frozen=True, kw_only=True):
    """A collection as it stands."""

    name: str
    document_count: int
    chunk_count: int
    created_at: datetime
    updated_at: datetime
    embedding_model: str
    dimensions: int
    index: IndexCard


class CollectionList(Struct, frozen=True, kw_only=True):
    """The collections, by name."""

    collections: tuple[CollectionCard, ...]


class DeleteCollection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let nobody find this collection any more."""

    collection: CollectionName


class CollectionRemoved(Struct, frozen=True, kw_only=True):
    """So much was in the collection that is gone."""

    collection: str
    documents_deleted: int
    chunks_deleted: int


class RebuildCollection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Build the index of this collection anew from its rows; searches are answered meanwhile."""

    collection: CollectionName


class VerifyCollection(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare this collection with the log: its documents, the blobs behind them, its rows, and its index."""

    collection: CollectionName


class Verified(Struct, frozen=True, kw_only=True):
    """What was compared, and in `problems`, in words, what does not agree."""

    collection: str
    documents: int
    chunks: int
    problems: tuple[str, ...]


class ListDocuments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tell which documents a collection has, by id, behind the document `after`."""

    collection: CollectionName
    filter: Filter = {}
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: str | None = None


class GetDocument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell about this document."""

    collection: CollectionName
    document_id: DocumentId


class DocumentCard(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A document as it stands. `source_blob` and `contents_blob` are in the folder of RAG's blobs."""

    document_id: str
    collection: str
    filename: str
    chunks: int
    stored_at: datetime
    content_hash: str
    source_blob: str
    contents_blob: str
    metadata: Metadata = {}
    pages: int = 0


class DocumentList(Struct, frozen=True, kw_only=True):
    """Some of the documents, not more than a message may hold; `has_more` says that others follow."""

    documents: tuple[DocumentCard, ...]
    has_more: bool


class DeleteDocuments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Let nobody find this document, or those that `filter` is true of, any more. One of both is to be given."""

    collection: CollectionName
    document_id: DocumentId | None = None
    filter: Filter = {}


class DocumentsDeleted(Struct, frozen=True, kw_only=True):
    """So many are gone, and so many chunks with them; `document_ids` are those that one message can tell of."""

    collection: str
    document_ids: tuple[str, ...]
    documents_deleted: int
    chunks_deleted: int


class GetChunk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell about this chunk: a `Hit` whose score is 0, with its parent."""

    collection: CollectionName
    chunk_id: Annotated[str, Meta(min_length=1, max_length=300)]
