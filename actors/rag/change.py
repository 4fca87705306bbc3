"""What the store tells when documents have come and gone."""

from typing import NamedTuple

from msgspec import Struct

from actors.rag.blocks import Vectors
from actors.rag.labels import Labels


class Change(Struct, frozen=True):
    """What the index of a collection has to be told.

    `vectors` are float32, a row for each of `labels`, which are new; those `gone` are not to be found any more. Of a
    collection that `is_deleted` nothing is; one of the same id may follow it.
    """

    collection: str
    dimensions: int
    labels: Labels
    vectors: Vectors
    gone: Labels
    is_deleted: bool = False


class Applied(NamedTuple):
    """What a batch of events has changed, and which of them, by their numbers in RAG, changed nothing.

    As of a document whose collection was deleted before: what had happened by then does not allow for them.
    """

    changes: list[Change]
    ignored: frozenset[int]
