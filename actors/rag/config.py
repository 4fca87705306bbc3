"""The settings of RAG."""

from typing import Annotated

import msgspec

from bus.config import Seconds

Positive = Annotated[int, msgspec.Meta(ge=1)]


class RagConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How documents are taken in and found.

    `embedding_model` is for collections that do not say one; unless named, the first warm embedding model.
    `chat_model` answers where a query names none; unless named, the first warm chat model. `private_collections`: those
    of one API key are there for that key only. `ef` is how far HNSW looks; `parse_seconds` and `parse_bytes` limit
    the process that parses a file, `max_file_bytes` the file. `store_bytes` is the memory that DuckDB may take.
    """

    embedding_model: str | None = None
    chat_model: str | None = None
    private_collections: bool = False
    ef: Positive = 128
    max_file_bytes: Positive = 100 * 2**20
    parse_seconds: Seconds = 60.0
    parse_bytes: Positive = 2**30
    store_bytes: Annotated[int, msgspec.Meta(ge=2**20, le=2**62)] = 2 * 2**30
    snapshot_seconds: Seconds = 60.0


RAG_VARIABLES = {
    "RAG_EMBEDDING_MODEL": "embedding_model",
    "RAG_CHAT_MODEL": "chat_model",
    "RAG_PRIVATE_COLLECTIONS": "private_collections",
}
