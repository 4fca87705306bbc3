"""The recorder: writes events that nobody waits for to the log, beside the work that they tell of."""

import asyncio

import structlog

from actors.supervisor import Child
from bus.errors import BusError
from bus.events import EventLog
from eventlog.events import Event

log = structlog.get_logger()

_MOST = 10_000


class Recorder:
    """A bounded queue of events on their way to the log. They are measurements: when it is full, some are dropped."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._queue: asyncio.Queue[Event] = asyncio.Queue(_MOST)

    def put(self, event: Event) -> None:
        """Record `event` soon."""
        if self._queue.full():
            log.warning("recorder.full", dropped=type(event).__name__)
        else:
            self._queue.put_nowait(event)

    async def run(self) -> None:
        """Record for ever. When cancelled, what is waiting is still tried once."""
        event: Event | None = None
        try:
            while True:
                event = None
                event = await self._queue.get()
                await self._record(event)
        finally:
            if event is not None:
                await self._record(event)  # Stored once, should the first try have got through.
            while not self._queue.empty():
                await self._record(self._queue.get_nowait())

    async def _record(self, event: Event) -> None:
        try:
            await self._events.record(event)
        except BusError as error:
            log.warning("recorder.lost", kind=type(event).__name__, error=str(error))


def child(recorder: Recorder) -> Child:
    """Return what the supervisor needs to run the recorder."""
    return Child("recorder", recorder.run)
