"""Pulling from JetStream consumers: one job at a time for workers, the log in batches for projections.

nats-py's own `fetch` cannot poll without waiting for one message, and `request` drops what a pull answers,
because the message keeps its original subject (docs/adr/0003).
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from bus.client import Bus
from bus.errors import LostError
from bus.streams import api
from eventlog.events import Recorded, decode

log = structlog.get_logger()

_NANO = 10**9


class Delivery:
    """One message handed out by a work queue. It comes again after the queue's ack wait unless acknowledged."""

    def __init__(self, nc: Client, msg: Msg) -> None:
        self._nc = nc
        self._msg = msg

    @property
    def subject(self) -> str:
        """The subject of the message."""
        return self._msg.subject

    @property
    def queued(self) -> Recorded | None:
        """The event of the log that was put on the queue; None if it was handed out before, as more has happened since.

        The work queue is sourced from the log: the message is the event, and a header tells its place.
        """
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
        if int(self._msg.reply.split(".")[-5]) > 1:
            return None
        return Recorded(_source(self._msg), decode(self._msg.data), self._msg.data)

    async def ack(self) -> None:
        """Take it off the queue. No fence: a late ack succeeds too.

        Nobody waits for it: if it is lost, the message comes again, and the log tells that it is done.
        """
        with suppress(NatsError):
            await self._nc.publish(self._msg.reply, b"+ACK")

    async def nak(self, delay: float) -> None:
        """Hand it out again after `delay` seconds."""
        with suppress(NatsError):
            await self._nc.publish(self._msg.reply, b"-NAK " + json.dumps({"delay": int(delay * _NANO)}).encode())

    async def in_progress(self) -> None:
        """Start the ack wait anew."""
        with suppress(NatsError):
            await self._nc.publish(self._msg.reply, b"+WPI")


class Puller:
    """Takes messages off work queues one at a time, through one subscription."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._got: asyncio.Queue[Msg] = asyncio.Queue()
        self._asked = 0
        self.inbox = nc.new_inbox()

    async def receive(self, msg: Msg) -> None:
        """Take in what a pull gives."""
        self._got.put_nowait(msg)

    async def one(self, stream: str, durable: str, *, wait: float = 2.0) -> Delivery | None:
        """Return the next message of the durable, or None when there is none now. Raises `LostError`.

        A message that comes too late for the one who asked is given to the next.
        """
        self._asked += 1
        reply = f"{self.inbox}.{self._asked}"
        try:
            async with asyncio.timeout(wait):
                body = b'{"batch":1,"no_wait":true}'
                await self._nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}", body, reply=reply)
                while True:
                    msg = await self._got.get()
                    status = (msg.headers or {}).get("Status")
                    if status is None:
                        return Delivery(self._nc, msg)
                    # A message has its own subject, a status that of the pull.
                    if msg.subject == reply:
                        break
        except (NatsError, TimeoutError) as error:
            raise LostError("unavailable", f"The queue {durable} does not answer.") from error
        if status in {"404", "408"}:
            return None
        raise LostError("unavailable", f"The queue {durable} answers {status}.")


@asynccontextmanager
async def pulling(nc: Client) -> AsyncGenerator[Puller]:
    """Pull until the block ends."""
    puller = Puller(nc)
    subscription = await nc.subscribe(f"{puller.inbox}.*", cb=puller.receive)
    try:
        yield puller
    finally:
        with suppress(NatsError):
            await subscription.unsubscribe()


async def pull_one(nc: Client, stream: str, durable: str, *, wait: float = 2.0) -> Delivery | None:
    """Return the next message of the durable, or None when there is none now. Raises `LostError`."""
    try:
        async with pulling(nc) as puller:
            return await puller.one(stream, durable, wait=wait)
    except NatsError as error:
        raise LostError("unavailable", f"The queue {durable} cannot be asked.") from error


class LogReader:
    """Reads the log, or a stream sourced from it, from a sequence on: in order, without a gap, across restarts."""

    _BATCH = 1000
    _EXPIRES = 5.0
    # So many events may wait here for a projection that is slower than the log.
    _AHEAD = 20_000

    def __init__(self, bus: Bus, after: int, stream: str) -> None:
        self._bus = bus
        self._stream = stream
        self._last = after
        # Not an asyncio.Queue, which takes a fifth of the time that an event may take.
        self._arrived: deque[Recorded] = deque()
        self._news = asyncio.Event()
        self._consumer = ""
        self._asked_at = 0.0
        self._owed = 0
        self._reconnects = bus.nc.stats["reconnects"]
        self.inbox = bus.nc.new_inbox()
        self._expected = 0

    async def batch(self, limit: int) -> list[Recorded]:
        """Return the next events, at least one and at most `limit`: those there are, or the next to come."""
        entries: list[Recorded] = []
        while not entries:
            await self._ask()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._news.wait()
            self._news.clear()
            while self._arrived and len(entries) < limit:
                self._take(self._arrived.popleft(), entries)
        if self._arrived:
            self._news.set()
        return entries

    async def receive(self, msg: Msg) -> None:
        """Take a message of the pull in."""
        headers = msg.headers or {}
        if "Status" in headers:
            # 408 and 409 end a pull; anything may be wrong with the consumer, so look again.
            self._owed = 0
            self._news.set()
            return
        self._owed -= 1
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
        tokens = msg.reply.split(".")
        seq, consumer_seq = int(tokens[-4]), int(tokens[-3])
        if tokens[3] != self._consumer:
            return
        self._expected += 1
        if consumer_seq != self._expected:
            self._consumer = ""  # Something was lost on the way: begin again behind the last one taken.
            self._news.set()
            return
        self._arrived.append(Recorded(seq, decode(msg.data), msg.data, _source(msg)))
        self._news.set()
        if self._owed == self._BATCH // 2 and len(self._arrived) < self._AHEAD:
            with suppress(NatsError):  # So that the next ones are on their way while these are taken in.
                await self._pull()

    def _take(self, entry: Recorded, entries: list[Recorded]) -> None:
        if entry.seq > self._last:
            self._last = entry.seq
            entries.append(entry)

    async def _ask(self) -> None:
        now = time.monotonic()
        if self._reconnects != self._bus.nc.stats["reconnects"]:
            self._reconnects = self._bus.nc.stats["reconnects"]
            self._owed = 0  # A pull ends with the server, and so may the consumer.
        if now - self._asked_at > self._EXPIRES + 1:
            self._owed = 0
        if self._owed > self._BATCH // 2:
            return
        try:
            if not self._consumer or self._owed <= 0:
                await self._ensure_consumer()
            await self._pull()
        except (LostError, NatsError):
            await asyncio.sleep(0.1)  # the server is away; the client reconnects by itself

    async def _pull(self) -> None:
        body = {"batch": self._BATCH, "expires": int(self._EXPIRES * _NANO)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        await self._bus.nc.publish(subject, json.dumps(body).encode(), reply=self.inbox)
        self._owed += self._BATCH
        self._asked_at = time.monotonic()

    async def _ensure_consumer(self) -> None:
        nc = self._bus.nc
        if self._consumer and "error" not in await api(nc, f"CONSUMER.INFO.{self._stream}.{self._consumer}", wait=1):
            return
        self._consumer = ""  # What still comes from it would be ahead of what the next one brings.
        self._arrived.clear()
        config: dict[str, Any] = {
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._last + 1,
            "inactive_threshold": 60 * _NANO,
            "mem_storage": True,
        }
        body = {"stream_name": self._stream, "config": config}
        answer = await api(nc, f"CONSUMER.CREATE.{self._stream}", body, wait=1)
        if "error" in answer:
            raise LostError("unavailable", f"No reader of the log: {answer['error'].get('description')}")
        self._consumer = answer["name"]
        self._expected = 0
        log.debug("log.reading", stream=self._stream, after=self._last)


@asynccontextmanager
async def reading_log(bus: Bus, after: int, stream: str = "EVENTS") -> AsyncGenerator[LogReader]:
    """Read the log, or a stream sourced from it, behind its sequence `after`."""
    reader = LogReader(bus, after, stream)
    subscription = await bus.nc.subscribe(reader.inbox, cb=reader.receive)
    try:
        yield reader
    finally:
        with suppress(NatsError):
            await subscription.unsubscribe()


def _source(msg: Msg) -> int:
    """Return the place in the log of what a stream has sourced from there; 0 for what is in the log itself."""
    # <stream> <its sequence> <filter> <transform> <subject>
    words = (msg.headers or {}).get("Nats-Stream-Source", "").split(" ")
    return int(words[1]) if len(words) > 1 else 0
