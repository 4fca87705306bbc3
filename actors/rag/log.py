"""The projector: follows the log of documents, and has the library take in what happened, in that order.

Owns        the place in the stream RAG that the library has reached
Never       decides anything: what was recorded has happened
"""

import asyncio
from collections import deque
from collections.abc import Iterable

import structlog

from actors.rag.contents import decode
from actors.rag.library import Library
from actors.rag.store_batch import Entry
from bus.blobs import Blobs
from bus.client import Bus
from bus.errors import LostError
from bus.pull import reading_log
from bus.streams import stream_last_seq
from eventlog.events import Recorded
from eventlog.rag_events import DocumentStored

log = structlog.get_logger()

_STREAM = "RAG"
# So many events are taken in together, or so many bytes of contents.
_BATCH = 1000
_MOST_BYTES = 64 * 2**20
_PATIENCE = 60.0


class BehindError(Exception):
    """The log ends before what the library has taken in: it is another log."""


class Projector:
    """Keeps one library as the log has it."""

    def __init__(self, bus: Bus, library: Library, blobs: Blobs) -> None:
        self._bus = bus
        self._library = library
        self._blobs = blobs
        self.reached = 0
        """The number, in EVENTS, of the last event of RAG that was taken in."""
        # Those of the last ones that changed nothing.
        self._ignored: deque[int] = deque(maxlen=_BATCH)
        self._moved = asyncio.Event()
        self.caught_up = asyncio.Event()

    async def run(self) -> None:
        """Follow the log, for ever; set `caught_up` when what had happened before is in.

        Raises `BehindError`, because what the library has, and the log has not, would be lost without a word.
        """
        goal, after = await stream_last_seq(self._bus.nc, _STREAM), self._library.checkpoint
        if goal < after:
            message = (
                f"The log of documents ends at {goal}, and {after} of its events were taken in before: the state of "
                "nats-server was lost or replaced. Restore it, or delete the folder rag to begin without documents."
            )
            raise BehindError(message)
        if goal == 0:
            self.caught_up.set()
        # From the last one on that is in, because that tells which event of EVENTS it is.
        async with reading_log(self._bus, max(after - 1, 0), _STREAM) as reader:
            while True:
                entries = await reader.batch(_BATCH)
                ignored = await self._take_in(entry for entry in entries if entry.seq > after)
                self._ignored.extend(entry.source for entry in entries if entry.seq in ignored)
                self.reached = entries[-1].source
                self._moved.set()
                self._moved = asyncio.Event()
                if entries[-1].seq >= goal:
                    self.caught_up.set()

    async def reach(self, seq: int) -> bool:
        """Return when the library has all events of RAG up to number `seq` of EVENTS: whether that changed anything.

        Raises `LostError`.
        """
        try:
            async with asyncio.timeout(_PATIENCE):
                while self.reached < seq:
                    await self._moved.wait()
        except TimeoutError as error:
            message = f"The event is recorded, and the documents are not there yet after {_PATIENCE:g} s."
            raise LostError("timeout", message, retry_after=1) from error
        return seq not in self._ignored

    async def _take_in(self, entries: Iterable[Recorded]) -> set[int]:
        ignored = set[int]()
        some, size = list[Entry](), 0
        for entry in entries:
            blob = None
            if isinstance(entry.event, DocumentStored):
                blob = await self._blobs.get(entry.event.contents_blob)
            some.append((entry, None if blob is None else await asyncio.to_thread(decode, blob)))
            size += len(blob or b"")
            if size > _MOST_BYTES:
                ignored |= await self._library.apply(some)
                some, size = [], 0
        if some:
            ignored |= await self._library.apply(some)
        return ignored
