"""The log: record an event, read an aggregate, follow what happens.

The expected last sequence is the fencing token: of two writers that saw the same state, one gets
`ConflictError`. JetStream checks it before it looks for duplicates, so a retry whose first acknowledgement
was lost looks like a conflict until the own event is found in the log (docs/adr/0003).
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from bus.client import Bus, settled, whole
from bus.errors import BusError, ConflictError, LostError, RefusedError
from bus.monitor import is_disk_full
from bus.subjects import (
    BATCH_EVENT,
    BATCH_EVENTS,
    FEED,
    FILE_EVENT,
    FILE_EVENTS,
    JOB_EVENT,
    JOB_EVENTS,
    JOB_QUEUED,
    MODEL_EVENT,
    MODEL_EVENTS,
    RAG_EVENT,
    RAG_EVENTS,
    REQUEST_FINISHED,
    RESPONSE_EVENT,
    RESPONSE_EVENTS,
    WEBHOOK_EVENT,
    WEBHOOK_EVENTS,
    fill,
)
from eventlog.batch_events import BatchEvent, FileEvent
from eventlog.events import (
    Event,
    JobEvent,
    JobQueued,
    Recorded,
    RequestFinished,
    ResponseEvent,
    Unknown,
    decode,
    encode,
)
from eventlog.rag_events import RagEvent
from eventlog.webhook_events import WebhookEvent

log = structlog.get_logger()

# JetStream's error codes.
_WRONG_LAST_SEQUENCE = 10071
_TOO_LARGE = 10054
_FULL = frozenset((10077, 10047, 10023))  # message, storage and resource limits exceeded

_TRY = 1.0
_BATCH = 256
# The server answers with at most 1024 messages, and a job has eight kinds of events.
_JOBS_AT_ONCE = 100


# What is decided on what happened before: of each kind one aggregate, with an expected last sequence.
Decided = JobEvent | ResponseEvent | WebhookEvent | FileEvent | BatchEvent | RagEvent


# By the kind's first word: the pattern of one event, that of all about the same thing, and the fields that name it.
_FAMILIES = {
    "job": (JOB_EVENT, JOB_EVENTS, ("job_id",)),
    "response": (RESPONSE_EVENT, RESPONSE_EVENTS, ("response_id",)),
    "webhook": (WEBHOOK_EVENT, WEBHOOK_EVENTS, ("delivery_id",)),
    "file": (FILE_EVENT, FILE_EVENTS, ("file_id",)),
    "batch": (BATCH_EVENT, BATCH_EVENTS, ("batch_id",)),
    "model": (MODEL_EVENT, MODEL_EVENTS, ("model",)),
    "rag": (RAG_EVENT, RAG_EVENTS, ("collection", "document_id")),
}

_QUEUED = str(JobQueued.__struct_config__.tag)
_FINISHED = str(RequestFinished.__struct_config__.tag)


def subject_of(event: Event) -> str:
    """Return the subject under which `event` is recorded."""
    if isinstance(event, JobQueued):
        return fill(JOB_QUEUED, event.job_id, event.priority, event.model)
    if isinstance(event, RequestFinished):
        return fill(REQUEST_FINISHED, event.request_id)
    family, _, what = str(type(event).__struct_config__.tag).partition(".")
    pattern, _, names = _FAMILIES[family]
    return fill(pattern, *_about(event, names), what)


def pattern_of(kind: str) -> str:
    """Return the pattern of the subjects under which events of this kind are recorded."""
    if kind == _QUEUED:
        return JOB_QUEUED
    if kind == _FINISHED:
        return REQUEST_FINISHED
    family, _, what = kind.partition(".")
    return f"{_FAMILIES[family][0].removesuffix('*')}{what}"


class EventLog:
    """The stream EVENTS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def record(self, event: Event) -> int:
        """Append `event` and return its sequence. Appending the same event twice appends it once."""
        return await self._append(event, {})

    async def record_next(self, event: Decided, *, after: int) -> int:
        """Append `event` if the last one of its aggregate is number `after` (0: there is none).

        Returns its sequence. Raises `ConflictError` if another event is there by now, `RefusedError`
        ("storage_full") and `LostError` when the log cannot be reached within the append timeout: it may then be
        stored or not.
        """
        aggregate = _aggregate(event)
        expected = {
            "Nats-Expected-Last-Subject-Sequence": str(after),
            "Nats-Expected-Last-Subject-Sequence-Subject": aggregate,
        }
        try:
            return await self._append(event, expected)
        except ConflictError:
            own = await self._find_own(event, aggregate)
            if own is None:
                raise
            return own

    async def read_job(self, job_id: str) -> list[Recorded]:
        """Return all events of a job, oldest first; an empty list when there is none."""
        return await self.read(fill(JOB_EVENTS, job_id))

    async def read_response(self, response_id: str) -> list[Recorded]:
        """Return all events of a response, oldest first; an empty list when there is none."""
        return await self.read(fill(RESPONSE_EVENTS, response_id))

    async def read(self, subject: str) -> list[Recorded]:
        """Return all events under the pattern `subject`, oldest first. Raises `LostError`."""
        found: list[Recorded] = []
        while True:
            start = found[-1].seq + 1 if found else 1
            batch, has_more = await self._read_batch(subject, start)
            found += batch
            if not has_more:
                return found

    async def read_last_of_jobs(self, job_ids: Sequence[str]) -> list[Recorded]:
        """Return the last event of each kind of these jobs, oldest first. Raises `LostError`."""
        found: list[Recorded] = []
        for start in range(0, len(job_ids), _JOBS_AT_ONCE):
            patterns = [fill(JOB_EVENTS, job_id) for job_id in job_ids[start : start + _JOBS_AT_ONCE]]
            batch, _ = await self._patiently({"multi_last": patterns})
            found += batch
        return sorted(found, key=lambda item: item.seq)

    @asynccontextmanager
    async def follow(self, subject: str = FEED) -> AsyncGenerator[AsyncGenerator[Recorded]]:
        """Hear of events as they are stored, from now on, on the feed. What is missed while away is not told.

        Raises `LostError` when the log cannot be reached within the append timeout.
        """
        queue: asyncio.Queue[Recorded] = asyncio.Queue()

        async def on_event(msg: Msg) -> None:
            seq = int((msg.headers or {}).get("Nats-Sequence", 0))
            queue.put_nowait(Recorded(seq, decode(msg.data), msg.data))

        async def events() -> AsyncGenerator[Recorded]:
            while True:
                yield await queue.get()

        async with self._subscribed(subject, on_event):
            yield events()

    @asynccontextmanager
    async def hearing(self, subject: str) -> AsyncGenerator[asyncio.Event]:
        """Set the event whenever something is stored, from now on. What it was stands in the log, without a gap.

        Raises as `follow` does.
        """
        heard = asyncio.Event()

        async def on_event(_: Msg) -> None:
            heard.set()

        async with self._subscribed(subject, on_event):
            yield heard

    @asynccontextmanager
    async def _subscribed(self, subject: str, on_event: Callable[[Msg], Awaitable[None]]) -> AsyncGenerator[None]:
        nc = self._bus.nc
        subscription = await nc.subscribe(subject, cb=on_event)
        try:
            try:
                await settled(nc, self._bus.config.append_timeout)
            except NatsError as error:
                raise LostError("unavailable", "The event log does not answer.", retry_after=1) from error
            yield
        finally:
            if not nc.is_closed:
                await subscription.unsubscribe()

    async def _append(self, event: Event, headers: dict[str, str]) -> int:
        subject, payload = subject_of(event), encode(event)
        headers = {"Nats-Msg-Id": event.id, **headers}
        deadline = asyncio.get_running_loop().time() + self._bus.config.append_timeout
        while True:
            try:
                msg = await whole(self._bus.nc.request(subject, payload, timeout=_TRY, headers=headers))
                return _sequence(json.loads(msg.data))
            except MaxPayloadError as error:
                raise RefusedError("too_large", f"The event is {len(payload)} bytes, too large.") from error
            except (NatsError, TimeoutError) as error:
                lost = await self._lost("The event log does not answer; the event may or may not be stored.")
                # The same id again: it is stored once whichever of the tries got through.
                if isinstance(lost, RefusedError) or asyncio.get_running_loop().time() > deadline:
                    raise lost from error
                await asyncio.sleep(0.05)

    async def _lost(self, message: str) -> BusError:
        """Return what to raise when the log does not answer: that its disk is full, if that is why."""
        if self._bus.nc.is_connected and await is_disk_full(self._bus.config.monitor_url):
            return RefusedError("storage_full", "The disk of the event log is full: nothing can be stored or read.")
        return LostError("unavailable", message, retry_after=1)

    async def _find_own(self, event: Event, aggregate: str) -> int | None:
        for recorded in await self.read(aggregate):
            if not isinstance(recorded.event, Unknown) and recorded.event.id == event.id:
                return recorded.seq
        return None

    async def _read_batch(self, subject: str, start: int) -> tuple[list[Recorded], bool]:
        return await self._patiently({"seq": start, "next_by_subj": subject, "batch": _BATCH})

    async def _patiently(self, body: dict[str, object]) -> tuple[list[Recorded], bool]:
        """Read through JetStream's batched direct get (NATS ADR-31): messages, then an empty one with 204."""
        deadline = asyncio.get_running_loop().time() + self._bus.config.append_timeout
        while True:
            try:
                return await self._direct_get(json.dumps(body).encode())
            except (NatsError, TimeoutError) as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise LostError("unavailable", "The event log does not answer.", retry_after=1) from error
                await asyncio.sleep(0.05)

    async def _direct_get(self, body: bytes) -> tuple[list[Recorded], bool]:
        nc = self._bus.nc
        inbox = nc.new_inbox()
        subscription = await nc.subscribe(inbox)
        found: list[Recorded] = []
        try:
            await nc.publish("$JS.API.DIRECT.GET.EVENTS", body, reply=inbox)
            while True:
                msg = await whole(subscription.next_msg(timeout=_TRY))
                headers = msg.headers or {}
                status = headers.get("Status")
                if status in {"204", "404"}:
                    return found, int(headers.get("Nats-Num-Pending", 0)) > 0
                if status is not None:
                    raise await self._lost(f"Reading the log: {status} {headers.get('Description')}.")
                found.append(Recorded(int(headers["Nats-Sequence"]), decode(msg.data), msg.data))
        finally:
            await subscription.unsubscribe()


def _aggregate(event: Decided) -> str:
    """Return the pattern of all events about the same thing."""
    _, pattern, names = _FAMILIES[str(type(event).__struct_config__.tag).partition(".")[0]]
    return fill(pattern, *_about(event, names))


def _about(event: Event, names: Iterable[str]) -> list[str]:
    # What is about a collection as a whole is about no document.
    return [getattr(event, name, "-") for name in names]


def _sequence(answer: dict[str, object]) -> int:
    error = answer.get("error")
    if not isinstance(error, dict):
        return int(str(answer["seq"]))
    code = error.get("err_code")
    raise _append_error(int(code or 0), str(error.get("description")))


def _append_error(code: int, description: str) -> BusError:
    if code == _WRONG_LAST_SEQUENCE:
        return ConflictError("conflict", f"The log has moved on: {description}.")
    if code == _TOO_LARGE:
        return RefusedError("too_large", f"The event is too large: {description}.")
    if code in _FULL:
        return RefusedError("storage_full", f"The event log is full: {description}.")
    return LostError("unavailable", f"The event log refused the event: {description} ({code}).")
