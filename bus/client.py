"""The client: ask, stream and follow who is there. Answering is in `serve.py`, the log in `events.py`.

All answers come to one inbox of this connection; a table gives each to the one who waits for it.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Self, TypeVar

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, ConnectionReconnectingError, FlushTimeoutError
from nats.errors import Error as NatsError

from bus.config import BusConfig
from bus.errors import LostError, RefusedError
from bus.frames import KEEP_ALIVE, KEY, REQUEST_ID, size
from bus.ids import new_id
from bus.inbox import Answer, Inbox
from bus.presence import Presence
from bus.server import OLDEST
from bus.subjects import HEARTBEAT, Address
from bus.telemetry import inject

log = structlog.get_logger()

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")

_TICK = 1.0
# Seconds after which a lost connection is noticed by who waits for a pong; nats-py does not tell.
_LOOK_AGAIN = 0.05
# The same for who waits for an answer, perhaps for long.
_LOOK_NOW_AND_THEN = 0.25
# nats-server closes the connection of a client whose control line (subject, inbox, sizes) exceeds 4096.
_LONGEST_SUBJECT = 3000


async def whole(waiting: Awaitable[ReplyT]) -> ReplyT:
    """Await what waits with `asyncio.wait_for`, as nats-py does.

    Before Python 3.12 that swallows a cancel which comes together with the result, and the task goes on for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    result = await waiting
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return result


async def unless_lost(nc: Client, waiting: Coroutine[Any, Any, ReplyT]) -> ReplyT:
    """Return what `waiting` gives, which comes from the server.

    Raises `ConnectionReconnectingError` after a reconnect: what was asked for, or the answer, may have been lost with
    the connection, and nobody tells.
    """
    before, task = nc.stats["reconnects"], asyncio.ensure_future(waiting)
    try:
        while not task.done():
            if nc.stats["reconnects"] != before:
                raise ConnectionReconnectingError
            await asyncio.wait((task,), timeout=_LOOK_NOW_AND_THEN)
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def again_if_lost(nc: Client, ask: Callable[[], Coroutine[Any, Any, ReplyT]]) -> ReplyT:
    """Return what `ask` gives. It asks again when the connection was lost meanwhile, so that it may be asked twice."""
    while True:
        with suppress(ConnectionReconnectingError):
            return await unless_lost(nc, ask())


async def settled(nc: Client, seconds: float = 10.0) -> None:
    """Return when the server has all that was subscribed and published on `nc` so far. Raises as `flushed` does.

    One flush is not enough: nats-py's ping overtakes what waits to be written. After the first pong that is written,
    and after the second the server has it.
    """
    await flushed(nc, seconds)
    await flushed(nc, seconds)


async def flushed(nc: Client, seconds: float = 10.0) -> None:
    """Return when the server has answered a ping. Raises `FlushTimeoutError` or `ConnectionClosedError`.

    As `Client.flush`, which may not be given up: it cancels what waits for the pong, and when that comes nevertheless
    nats-py finds an invalid state and breaks the connection. A pong is lost with its connection; then the next
    connection is asked.
    """
    try:
        async with asyncio.timeout(seconds):
            while not await _ponged(nc):
                pass
    except TimeoutError as error:
        raise FlushTimeoutError from error


async def received(nc: Client, seconds: float) -> None:
    """Return when the server has what was published so far, and what it had sent by then is here.

    Once the connection is lost nothing more is on its way. Raises as `flushed` does.
    """
    try:
        async with asyncio.timeout(seconds):
            # Twice as in `settled`.
            _ = await _ponged(nc) and await _ponged(nc)
    except TimeoutError as error:
        raise FlushTimeoutError from error


async def _ponged(nc: Client) -> bool:
    """Return whether the server has answered a ping; False when there was no connection, or it was lost meanwhile."""
    if nc.is_closed:
        raise ConnectionClosedError
    if _is_away(nc):
        await asyncio.sleep(_LOOK_AGAIN)
        return False
    pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    await nc._send_ping(pong)  # noqa: SLF001 - see `flushed`
    # nats-py forgets those of a lost connection when there is another.
    while pong in nc._pongs and not (nc.is_closed or _is_away(nc)):  # noqa: SLF001 - the same
        await asyncio.wait((pong,), timeout=_LOOK_AGAIN)
    return pong.done()


def _is_away(nc: Client) -> bool:
    # Not `is_connected`: that is not said of a connection which is drained.
    return nc.is_connecting or nc.is_reconnecting


class _Connection(Client):
    """nats-py's client, whose own flush waits in vain for the pong of a lost connection, also inside nats-py."""

    async def flush(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - nats-py's signature
        """Return when the server has answered a ping. Raises as `flushed` does."""
        await flushed(self, timeout)


class Bus:
    """A connection to NATS, and what Fusion says over it."""

    def __init__(self, nc: Client, role: str, config: BusConfig) -> None:
        self.nc = nc
        self.role = role
        self.config = config
        self.presence = Presence(silence=config.silence)
        self.inbox = Inbox(f"_INBOX.{role}.{new_id()}")
        self._encoder = msgspec.json.Encoder()

    @classmethod
    @asynccontextmanager
    async def connect(cls, role: str, config: BusConfig) -> AsyncGenerator[Self]:
        """Connect, and stay connected through server restarts until the block ends.

        Raises `LostError` when no server answers, or one that is too old: such takes the settings that jobs rest on
        without a word and does not keep them.
        """
        nc = _Connection()
        bus = cls(nc, role, config)
        await _connect(nc, role, config, bus.inbox.fail_started)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_close, nc)
            _check_version(nc, config)
            await nc.subscribe(f"{bus.inbox.prefix}.*", cb=bus.inbox.receive, pending_msgs_limit=0)
            await nc.subscribe(HEARTBEAT, cb=bus._on_heartbeat)
            try:
                await settled(nc, config.admit_timeout)
            except NatsError as error:
                raise _no_server(nc, config, error) from error
            ticker = asyncio.create_task(bus._watch(), name="presence")
            stack.push_async_callback(_cancelled, ticker)
            yield bus

    @asynccontextmanager
    async def stream(
        self,
        address: Address[RequestT, ReplyT],
        request: RequestT,
        *,
        request_id: str | None = None,
        keep_alive: float | None = None,
        key: str | None = None,
    ) -> AsyncGenerator[Answer[ReplyT]]:
        """Ask `address` and read the pieces as they come. Leaving the block early ends the work at the far side.

        `keep_alive` is for how many seconds a heavy model stays loaded afterwards; negative is for ever.
        `key` is the fingerprint of the API key for which it is done.

        Raises, here or from the answer: `RefusedError` with the reason of the one asked; `LostError` when nobody
        answers, the answerer dies, a piece is missing, or one of the config's timeouts runs out.
        """
        request_id = request_id or new_id("req")
        headers = {REQUEST_ID: request_id}
        if keep_alive is not None:
            headers[KEEP_ALIVE] = str(keep_alive)
        if key is not None:
            headers[KEY] = key
        answer = self.inbox.open(request_id, address.reply, self.config, streamed=address.streamed)
        try:
            await self._send(address.name, self._encoder.encode(request), answer, headers)
            yield answer
        finally:
            self.inbox.close(answer)
            if answer.unfinished and answer.cancel_subject:
                with suppress(NatsError):
                    await self.nc.publish(answer.cancel_subject)

    async def ask(self, address: Address[RequestT, ReplyT], request: RequestT, *, patience: float = 5.0) -> ReplyT:
        """Return the single reply of `address`. Raises as `stream` does, `LostError` after `patience` seconds."""
        try:
            async with asyncio.timeout(patience), self.stream(address, request) as answer:
                async for item in answer:
                    return item  # type: ignore[return-value]  # an unstreamed answer has no status frames
        except TimeoutError as error:
            raise LostError("timeout", f"No reply on {address.name} in {patience:g} s.", retry_after=1) from error
        raise LostError("stream_broken", f"An empty answer came on {address.name}.")

    async def publish(self, subject: str, message: msgspec.Struct) -> None:
        """Say `message` to whoever listens."""
        await self.nc.publish(subject, self._encoder.encode(message))

    async def _send(self, subject: str, payload: bytes, answer: Answer[ReplyT], headers: dict[str, str]) -> None:
        headers = inject(headers)
        total, limit = size(payload, headers), self.nc.max_payload
        if total > limit:
            raise RefusedError("too_large", f"The request is {total} bytes; the limit is {limit}.")
        if len(subject) > _LONGEST_SUBJECT:
            raise LostError("unavailable", f"Nobody can serve a subject of {len(subject)} characters.")
        reply = f"{self.inbox.prefix}.{answer.token}"
        try:
            await self.nc.publish(subject, payload, reply=reply, headers=headers)
        except NatsError as error:
            raise LostError("unavailable", "The message server cannot be reached.", retry_after=1) from error

    async def _on_heartbeat(self, msg: Msg) -> None:
        beat = self.presence.receive(msg.data, time.monotonic())
        if beat and beat.state == "down":
            self.inbox.fail_instance(beat.instance, "The model's process ended while answering.")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            for instance in self.presence.forget_silent(time.monotonic()):
                self.inbox.fail_instance(instance, "The model's process has stopped answering.")


async def _connect(nc: Client, role: str, config: BusConfig, when_reconnected: Callable[[], None]) -> None:
    was_connected = False

    async def on_error(error: Exception) -> None:
        if was_connected:  # Until then it is told once, by what is raised.
            log.warning("bus.error", error=repr(error))

    async def on_disconnected() -> None:
        if not (nc.is_closed or nc.is_draining):
            log.warning("bus.disconnected")

    async def on_reconnected() -> None:
        log.info("bus.reconnected")
        when_reconnected()

    try:
        # Endless reconnecting would make this first connecting endless too.
        async with asyncio.timeout(config.admit_timeout):
            await nc.connect(
                config.url,
                name=f"{role}-{os.getpid()}",
                inbox_prefix=f"_INBOX.{role}".encode(),
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,  # type: ignore[arg-type]  # it is slept, so a float does
                connect_timeout=2,
                ping_interval=5,
                max_outstanding_pings=2,
            )
        was_connected = True
    except (NatsError, OSError, TimeoutError) as error:
        raise _no_server(nc, config, error) from error


def _no_server(nc: Client, config: BusConfig, error: Exception) -> LostError:
    why = str(error) or nc.last_error or "it did not say so in time"
    return LostError("unavailable", f"No nats-server answers at {config.url}: {why}")


def _check_version(nc: Client, config: BusConfig) -> None:
    server = nc.connected_server_version
    if (server.major, server.minor) < OLDEST:
        found, wanted = f"{server.major}.{server.minor}.{server.patch}", ".".join(map(str, OLDEST))
        message = f"The nats-server at {config.url} is version {found}; Fusion needs {wanted} or newer."
        raise LostError("unavailable", message)


async def _close(nc: Client) -> None:
    with suppress(NatsError, TimeoutError):
        await asyncio.wait_for(nc.drain(), 2)
    if not nc.is_closed:
        with suppress(OSError):  # nats-py still writes to a connection that has just broken.
            await nc.close()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
