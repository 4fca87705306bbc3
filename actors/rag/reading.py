"""From what was given of a document to its contents: text, chunks and vectors."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec import Struct

from actors.rag.chunking import chunks
from actors.rag.contents import Chunk, Contents, Parsed
from actors.rag.embedders import Embedder, Embedders, Vectors
from actors.rag.given import read_given
from actors.rag.parsing import Parser
from bus.errors import RefusedError
from bus.messages.rag_documents import CHUNKS_TYPE, DocumentSource

# Hears of a document how many of its chunks have their vectors, and how many it has.
OnEmbedded = Callable[[DocumentSource, int, int], None]


class How(Struct, frozen=True, kw_only=True):
    """How documents are to be read: into which collection, by which model, cut how. `key` is of the API key."""

    collection: str
    embedder: Embedder
    chunk_size: int
    overlap: int
    key: str | None
    on_embedded: OnEmbedded


class Read(Struct, frozen=True, kw_only=True):
    """A document that was read, and for how many seconds the model was asked."""

    contents: Contents
    truncated_chunks: int
    embedding_seconds: float


class _Cut(Struct, frozen=True):
    parsed: Parsed
    chunks: tuple[Chunk, ...]
    known: tuple[int, ...]
    vectors: Vectors


class Reader:
    """Reads documents."""

    def __init__(self, parser: Parser, embedders: Embedders) -> None:
        self._parser = parser
        self.embedders = embedders

    async def read(self, source: DocumentSource, document_id: str, path: Path, how: How) -> Read:
        """Return what is in the file at `path`. Raises `RefusedError`, and `LostError` without its model."""
        cut = await self._cut(source, path, how)
        if not cut.chunks:
            raise RefusedError("invalid_request", "There is no text in the document.")
        known = set(cut.known)
        unknown = [number for number in range(len(cut.chunks)) if number not in known]
        texts = [cut.parsed.text[chunk.start : chunk.end] for chunk in cut.chunks]
        begun = time.monotonic()
        vectors = np.zeros((len(texts), how.embedder.dimensions), np.float32)
        vectors[list(cut.known)] = cut.vectors
        truncated = {number for number, chunk in enumerate(cut.chunks) if chunk.is_truncated}
        if unknown:
            wanted = [texts[number] for number in unknown]
            some = await self.embedders.documents(
                how.embedder, wanted, how.key, lambda done: how.on_embedded(source, len(known) + done, len(texts))
            )
            if some.vectors.shape[1] != how.embedder.dimensions:
                message = f"The vectors of {how.embedder.model} have {some.vectors.shape[1]} numbers, not as before."
                raise RefusedError("conflict", message, param="embedding_model")
            vectors[unknown] = some.vectors
            truncated |= {unknown[number] for number in some.truncated}
        contents = Contents(
            collection=how.collection,
            document_id=document_id,
            model=how.embedder.model,
            dimensions=how.embedder.dimensions,
            text=cut.parsed.text,
            chunks=cut.chunks,
            vectors=vectors.astype("<f2").tobytes(),
            metadata=cut.parsed.metadata | source.metadata,
            pages=len(cut.parsed.pages),
        )
        seconds = time.monotonic() - begun if unknown else 0.0
        return Read(contents=contents, truncated_chunks=len(truncated), embedding_seconds=seconds)

    async def _cut(self, source: DocumentSource, path: Path, how: How) -> _Cut:
        if source.content_type == CHUNKS_TYPE:
            content = await asyncio.to_thread(path.read_bytes)
            return _Cut(*await asyncio.to_thread(read_given, content, how.embedder))
        is_plain = source.text is not None and not source.filename
        content_type = source.content_type or ("text/plain" if is_plain else None)
        parsed = await self._parser.parse(path, source.filename, content_type)
        size, overlap = how.chunk_size, how.overlap
        cut = await asyncio.to_thread(chunks, parsed, how.embedder.tokenizer, size, overlap)
        return _Cut(parsed, cut, (), np.zeros((0, how.embedder.dimensions), np.float32))
