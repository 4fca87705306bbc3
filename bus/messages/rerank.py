"""What is said with a reranker."""

from typing import Annotated

from msgspec import Meta, Struct


class RerankRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Say how well each document answers the query.

    A query and document that are too long together are refused unless `truncate` is true, which shortens the document.
    Of a document no more than `max_document_tokens` are read. `instruction` is for rerankers that take one.
    """

    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[tuple[str, ...], Meta(min_length=1)]
    truncate: bool = False
    max_document_tokens: Annotated[int, Meta(ge=1)] | None = None
    instruction: Annotated[str, Meta(min_length=1)] | None = None


class RerankChunk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Scores of the documents from number `start` on, in order; the last chunk carries `prompt_tokens`.

    A score is from 0 to 1. `truncated` are the numbers of those of these documents that were shortened.
    """

    start: int
    scores: tuple[float, ...]
    prompt_tokens: int | None = None
    truncated: tuple[int, ...] = ()
