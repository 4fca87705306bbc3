"""What a batch of events adds up to: which documents come and go. Decides only; the store does it (store.py)."""

from collections.abc import Mapping, Sequence

import structlog
from msgspec import Struct

from actors.rag.contents import Contents
from actors.rag.store_schema import PIECE, NewCollection, NewDocument, Span
from eventlog.events import Recorded
from eventlog.rag_events import CollectionCreated, CollectionDeleted, DocumentDeleted, DocumentStored, RagEvent

log = structlog.get_logger()

Entry = tuple[Recorded, Contents | None]


class Collection(Struct, frozen=True):
    """A collection that is there. Another one of the same id, after it was deleted, has another `number`."""

    number: int
    collection: str
    model: str
    dimensions: int


class Batch:
    """Takes events in the order of the log. `number` is the next that may be given."""

    def __init__(
        self, collections: Mapping[str, Collection], documents: Mapping[tuple[int, str], Span], number: int
    ) -> None:
        self.collections = dict(collections)
        self.next_number = number
        self.created: dict[int, NewCollection] = {}
        self.dropped: list[Collection] = []
        self.stored: dict[tuple[int, str], NewDocument] = {}
        self.gone: dict[int, list[Span]] = {}
        self.ignored: set[int] = set()
        self._documents = dict(documents)

    def take(self, seq: int, event: RagEvent, contents: Contents | None) -> int | None:
        """Take in what happened as number `seq`, and return the number of the collection that it changes.

        What does not fit to what happened before changes nothing, and is `ignored`.
        """
        known = self.collections.get(event.collection)
        if isinstance(event, CollectionCreated):
            return self._create(event) if known is None else None
        if known is None:
            self.ignored.add(seq)
            return None
        match event:
            case CollectionDeleted():
                self._drop(known)
            case DocumentDeleted():
                self._remove(known.number, event.document_id)
            case DocumentStored():
                self._remove(known.number, event.document_id)
                if not self._store(known, event, contents):
                    self.ignored.add(seq)
        return known.number

    def _create(self, event: CollectionCreated) -> int:
        number = self.next_number
        self.next_number += 1
        self.collections[event.collection] = Collection(number, event.collection, event.model, event.dimensions)
        self.created[number] = NewCollection(number, event)
        return number

    def _drop(self, known: Collection) -> None:
        del self.collections[known.collection]
        self.gone.pop(known.number, None)
        self.stored = {key: one for key, one in self.stored.items() if key[0] != known.number}
        if self.created.pop(known.number, None) is None:
            self.dropped.append(known)

    def _remove(self, collection: int, document_id: str) -> None:
        before = self._documents.pop((collection, document_id), None)
        if before is not None:
            self.gone.setdefault(collection, []).append(before)
        self.stored.pop((collection, document_id), None)

    def _store(self, known: Collection, event: DocumentStored, contents: Contents | None) -> bool:
        """Store the document; return False if that cannot be."""
        # Where a later event deletes or replaces the document, its blob is gone by now.
        if contents is None:
            return False
        size = 2 * contents.dimensions * len(contents.chunks)
        is_other = (contents.model, contents.dimensions) != (known.model, known.dimensions)
        if is_other or len(contents.vectors) != size:
            log.error("rag.contents_misfit", collection=event.collection, blob=event.contents_blob)
            return False
        span = Span(self.next_number, len(contents.chunks))
        self.next_number = span.first_piece + -(-len(contents.text) // PIECE)
        self.stored[known.number, event.document_id] = NewDocument(span, known.number, event, contents)
        return True


def about(entries: Sequence[Entry]) -> set[tuple[str, str]]:
    """Return the documents that `entries` are about, each with its collection."""
    events = [entry.event for entry, _ in entries if isinstance(entry.event, DocumentStored | DocumentDeleted)]
    return {(event.collection, event.document_id) for event in events}
