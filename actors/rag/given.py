"""Documents that come in pieces: chunks that somebody else has cut, and perhaps embedded."""

from typing import NamedTuple

import msgspec
import numpy as np

from actors.rag.contents import Chunk, Parsed
from actors.rag.embedders import Embedder, Vectors, normalised
from bus.decoding import decode
from bus.errors import RefusedError
from bus.messages.rag_documents import GivenChunk

# Between two chunks, in the text of the document.
_GAP = "\n\n"

_decoder = msgspec.json.Decoder(tuple[GivenChunk, ...])


class Given(NamedTuple):
    """A document in chunks. `known` are the numbers of those whose `vectors` were given, in that order."""

    parsed: Parsed
    chunks: tuple[Chunk, ...]
    known: tuple[int, ...]
    vectors: Vectors


def read_given(content: bytes, embedder: Embedder) -> Given:
    """Return what a JSON array of `GivenChunk` has. Blocks for as long as its tokens are counted.

    Raises `RefusedError` for what is no such array, and a vector of other dimensions or without a direction.
    """
    given = decode(_decoder, content)
    if not given:
        raise RefusedError("invalid_request", "There are no chunks.")
    encodings = embedder.tokenizer.encode_batch_fast([one.text for one in given], add_special_tokens=False)
    chunks, start = list[Chunk](), 0
    for one, encoding in zip(given, encodings, strict=True):
        end, tokens = start + len(one.text), len(encoding.ids)
        is_truncated = tokens > embedder.most_tokens
        chunks.append(
            Chunk(start=start, end=end, tokens=tokens, parent_start=start, parent_end=end, is_truncated=is_truncated)
        )
        start = end + len(_GAP)
    known = tuple(number for number, one in enumerate(given) if one.embedding is not None)
    vectors = _vectors([given[number].embedding or () for number in known], known, embedder)
    return Given(Parsed(text=_GAP.join(one.text for one in given)), tuple(chunks), known, vectors)


def _vectors(rows: list[tuple[float, ...]], numbers: tuple[int, ...], embedder: Embedder) -> Vectors:
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != embedder.dimensions:
            message = f"The embedding of chunk {number} has {len(row)} numbers, not {embedder.dimensions}."
            raise RefusedError("invalid_request", message)
    if not rows:
        return np.zeros((0, embedder.dimensions), np.float32)
    return normalised(np.array(rows, np.float64))
