"""What a document is once it was read: its text, its chunks and their vectors, as they lie in the contents blob."""

import msgspec
from msgspec import Struct

from bus.messages.rag import Metadata


class Heading(Struct, frozen=True, array_like=True):
    """A heading at character `offset` of the text; `level` 1 is the outermost."""

    offset: int
    level: int
    title: str


class Parsed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The text of a file. `pages` are the characters at which its pages begin; none if it has no pages.

    `metadata` is what the file tells of itself: title, author, date (ISO 8601), language, whichever it has.
    """

    text: str
    pages: tuple[int, ...] = ()
    headings: tuple[Heading, ...] = ()
    metadata: Metadata = {}


class Chunk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Characters `start` to `end` of the text, which are so many `tokens` of the embedding model.

    `parent_start` to `parent_end` is the section around it. `pages` are its first and last, counted from 1.
    `is_truncated`: it has more tokens than the model reads, which is possible for given chunks only.
    """

    start: int
    end: int
    tokens: int
    parent_start: int
    parent_end: int
    pages: tuple[int, int] | None = None
    headings: tuple[str, ...] = ()
    is_truncated: bool = False


class Contents(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A document as it is stored. `vectors` has a row of float16, little-endian, of norm 1, for each chunk."""

    collection: str
    document_id: str
    model: str
    dimensions: int
    text: str
    chunks: tuple[Chunk, ...]
    vectors: bytes
    metadata: Metadata = {}
    pages: int = 0


encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Contents)


def decode(blob: bytes) -> Contents:
    """Return what `encode` made `blob` from. Raises `msgspec.DecodeError`."""
    return _decoder.decode(blob)


def chunk_id(document_id: str, number: int) -> str:
    """Return the id of chunk `number` of a document, counted from 0."""
    return f"{document_id}_chunk_{number}"
