"""The writer: records what happens to documents, and waits until it can be seen.

Owns        the order of what happens to one document: the expected last sequence is its fence
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog
from msgspec import Struct

from actors.rag.library import Library
from actors.rag.log import Projector
from bus.errors import ConflictError
from bus.events import EventLog
from bus.messages.rag import Filter
from bus.messages.rag_documents import DocumentCard
from bus.subjects import RAG_EVENTS, fill
from eventlog.rag_events import RagEvent

log = structlog.get_logger()

# Returns what is to be recorded by what is there now, or None for nothing. It is told up to which number of EVENTS
# anything has happened to it: the library has that.
Decide = Callable[[int], Awaitable[RagEvent | None]]


class Known(Struct, frozen=True):
    """Documents that are there, by id, after event number `at` of EVENTS or later."""

    cards: Mapping[str, DocumentCard]
    at: int


class Writer:
    """Writes to one library, through the log."""

    def __init__(self, events: EventLog, projector: Projector, library: Library) -> None:
        self._events = events
        self._projector = projector
        self._library = library

    async def known(self, collection: str, ids: Iterable[str], allowed: Filter | None = None) -> Known:
        """Return those documents of these ids that are there, and that the filter is true of. Raises `RefusedError`."""
        at = self._projector.reached
        return Known(await self._library.known(collection, ids, allowed), at)

    async def record(self, collection: str, document_id: str, decide: Decide) -> bool:
        """Record what `decide` returns about a document ("-" for the collection), and return when it is seen.

        Returns False if it could change nothing any more, as when the collection was deleted meanwhile. `decide` is
        asked again when something else happened meanwhile. Raises `RefusedError` ("storage_full"), and `LostError`: it
        may then be recorded or not.
        """
        about = fill(RAG_EVENTS, collection, document_id)
        while True:
            story = await self._events.read(about)
            last = story[-1].seq if story else 0
            await self._projector.reach(last)
            event = await decide(last)
            if event is None:
                return True
            try:
                seq = await self._events.record_next(event, after=last)
            except ConflictError:
                continue  # Somebody was faster: look again.
            log.info(str(type(event).__struct_config__.tag), collection=collection, document_id=document_id)
            return await self._projector.reach(seq)
