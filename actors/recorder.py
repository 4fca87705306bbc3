"""The recorder: writes events that nobody waits for to the log, beside the work that they tell of."""

import asyncio

import structlog

from actors.supervisor import Child
from bus.errors import BusError, LostError
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
        """Record for ever. When cancelled, what is waiting is still tried once, until the log does not answer."""
        event: Event | None = None
        try:
            while True:
                event = None
                event = await self._queue.get()
                await self._record(event)
        finally:
            # Stored once, should the first try have got through.
            goes_on = event is None or await self._record(event)
            while goes_on and not self._queue.empty():
                goes_on = await self._record(self._queue.get_nowait())
            if not self._queue.empty():
                log.warning("recorder.lost", count=self._queue.qsize())

    async def _record(self, event: Event) -> bool:
        """Record `event`; return whether the log has answered."""
        try:
            await self._events.record(event)
        except BusError as error:
            log.warning("recorder.lost", kind=type(event).__name__, error=str(error))
            return not isinstance(error, LostError)
        return True


def child(recorder: Recorder) -> Child:
    """Return what the supervisor needs to run the recorder."""
    return Child("recorder", recorder.run)
