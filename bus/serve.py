"""The answering side: takes requests off subjects, runs what answers them, and speaks the stream protocol.

Also a NATS micro service (ADR-32), so that `nats micro ls|info|stats` see it. Each request runs in a task of
its own, because nats-py awaits one callback at a time.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.micro.request import Request
from nats.micro.service import EndpointStats, Service, ServiceConfig
from structlog.contextvars import bound_contextvars

from bus.client import Bus, received, settled
from bus.decoding import decode
from bus.errors import BusError, Failure
from bus.frames import KEEP_ALIVE, KEY, LEASE, REQUEST_ID, STATUS, Frame, Status
from bus.ids import new_id
from bus.subjects import CANCEL, Address, fill, unescape
from bus.telemetry import extracted
from bus.writer import HandOn, Writer

log = structlog.get_logger()

RequestT = TypeVar("RequestT")
RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
ReplyT_co = TypeVar("ReplyT_co", covariant=True)
ReplyT = TypeVar("ReplyT")


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and for what: `request_id` follows the request, `operation` is its subject's second token.

    `keep_alive` is for how many seconds a heavy model shall stay loaded afterwards; negative: for ever. `key` is the
    fingerprint of the API key.
    """

    request_id: str
    operation: str = ""
    keep_alive: float | None = None
    key: str | None = None


class Receive(Protocol[RequestT_contra, ReplyT_co]):
    """What answers a request: an async generator, closed when the asker leaves.

    It raises `RefusedError` to decline. Any other exception is a crash: the asker is told `crashed`, everyone
    else served here `restarting`, and the exception goes on to the supervisor.
    """

    def __call__(self, request: RequestT_contra, caller: Caller, /) -> AsyncGenerator["ReplyT_co | Status | HandOn"]:
        """Yield the answer."""
        ...


class Endpoint(msgspec.Struct, Generic[RequestT, ReplyT], frozen=True):
    """One subject and what answers it."""

    address: Address[RequestT, ReplyT]
    receive: Receive[RequestT, ReplyT]


class ServiceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the service says of itself on `$SRV`. `stats` gives real numbers for `nats micro stats`."""

    name: str
    instance: str
    description: str
    metadata: Mapping[str, str] = {}
    stats: Callable[[], Mapping[str, int]] | None = None
    version: str = "0.1.0"


@asynccontextmanager
async def serving(
    bus: Bus, info: ServiceInfo, *endpoints: Endpoint[Any, Any], drain: float = 0.0
) -> AsyncGenerator["Serving"]:
    """Answer on `endpoints` until the block ends; requests still running `drain` seconds later are cancelled.

    A crash of one request ends the block with an ExceptionGroup.
    """
    async with asyncio.TaskGroup() as group:
        served = Serving(bus, info, group, drain)
        service = served.service
        controls = await bus.nc.subscribe(fill(CANCEL, info.instance, "x")[:-1] + "*", cb=served.cancel)
        try:
            await service.start()
            await served.listen(*endpoints)
            yield served
        finally:
            with suppress(NatsError, TimeoutError):
                await _hang_up(bus.nc, service)
            with suppress(NatsError):
                await _stop(service)
            await served.finish()
            with suppress(NatsError):
                await controls.unsubscribe()


class Serving:
    """What is being answered. `drain` may be changed until the block ends; tasks in `group` end it when they fail."""

    def __init__(self, bus: Bus, info: ServiceInfo, group: asyncio.TaskGroup, drain: float) -> None:
        self.group = group
        self.drain = drain
        self.service = Service(
            bus.nc,
            ServiceConfig(
                name=info.name,
                version=info.version,
                description=info.description,
                metadata={**info.metadata, "instance": info.instance},
                stats_handler=self.stats,
            ),
        )
        self._bus = bus
        self._info = info
        self._running: dict[str, asyncio.Task[None]] = {}
        self._crashed = False
        self._encode = msgspec.json.Encoder().encode

    @property
    def running(self) -> int:
        """How many requests are being answered, those included that wait in a mailbox."""
        return len(self._running)

    async def listen(self, *endpoints: Endpoint[Any, Any]) -> None:
        """Answer on `endpoints` too; returns when the server knows."""
        for endpoint in endpoints:
            await self._listen(endpoint)
        await settled(self._bus.nc)

    async def _listen(self, endpoint: Endpoint[Any, Any]) -> None:
        address = endpoint.address
        decoder = msgspec.json.Decoder(address.request)
        operation = address.name.split(".")[1]

        async def on_request(request: Request) -> None:
            msg = request._msg  # noqa: SLF001 - nats-py offers the reply subject nowhere else
            headers = msg.headers or {}
            request_id = headers.get(REQUEST_ID) or new_id("req")
            caller = Caller(
                request_id=request_id,
                operation=operation,
                keep_alive=_seconds(headers.get(KEEP_ALIVE)),
                key=headers.get(KEY),
            )
            token = _last_token(headers[LEASE]) if LEASE in headers else new_id()
            writer = Writer(self._bus, msg, fill(CANCEL, self._info.instance, token))
            with suppress(NatsError):
                await self._start(token, self._run(msg, endpoint, decoder, caller, writer), caller, writer)

        name = address.name.removeprefix("fusion.").split(".")
        await self.service.add_endpoint(
            name="-".join(name if name[0] in _OWNERS else name[:1]),
            subject=address.name,
            queue_group=name[0],
            handler=on_request,
        )

    async def cancel(self, msg: Msg) -> None:
        """End the request named by the last token, by order or because nobody listens any more (503).

        The token is that of the frames' reply subject, or the request's own id when the order comes by hand.
        """
        token = _last_token(msg.subject)
        why = _NOBODY if (msg.headers or {}).get(STATUS) == "503" else "asked to"
        task = self._running.get(token)
        named = [task] if task else [task for task in self._running.values() if task.get_name() == unescape(token)]
        for task in named:
            _end(task, why)

    async def finish(self) -> None:
        """Wait for what is running, then cancel it."""
        if self._running and not self._crashed:
            await asyncio.wait(self._running.values(), timeout=self.drain)
        for task in self._running.values():
            _end(task, _STOPPING)

    def stats(self, _: EndpointStats) -> Mapping[str, int]:
        """Return what `nats micro stats` shows."""
        return self._info.stats() if self._info.stats else {"running": len(self._running)}

    async def _start(self, key: str, run: Coroutine[Any, Any, None], caller: Caller, writer: "Writer") -> None:
        try:
            task = self.group.create_task(run, name=caller.request_id)
        except RuntimeError:  # The group is ending after a crash.
            run.close()
            await writer.fail(_RESTARTING)
            await writer.release()
            return
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        await asyncio.sleep(0)
        if task.cancelled():  # Before its first step, in which it could have told so itself.
            await writer.fail(_RESTARTING)
            await writer.release()

    async def _run(
        self, msg: Msg, endpoint: Endpoint[Any, Any], decoder: Any, caller: Caller, writer: "Writer"
    ) -> None:
        with extracted(msg.headers), bound_contextvars(request_id=caller.request_id), suppress(NatsError):
            try:
                await self._answer(endpoint, decode(decoder, msg.data), caller, writer)
            except BusError as error:
                await writer.fail(error.failure)
            except asyncio.CancelledError as error:
                # With a reason it comes from `_end`, without from the group, after a crash.
                await writer.fail(_ENDS.get(error.args[0], _CANCELLED) if error.args else _RESTARTING)
                raise
            except NatsError:
                await writer.fail(_UNREACHABLE)  # If it comes from the writer, this fails too.
            except Exception:
                self._crashed = True
                await writer.fail(_CRASHED)
                raise
            finally:
                await writer.release()

    async def _answer(self, endpoint: Endpoint[Any, Any], request: object, caller: Caller, writer: "Writer") -> None:
        async with aclosing(endpoint.receive(request, caller)) as items:
            if not endpoint.address.streamed:
                async for item in items:
                    if isinstance(item, HandOn):
                        await writer.hand_on(item)
                    else:
                        await writer.reply(self._encode(item))
                if not (writer.count or writer.is_handed_on):
                    await writer.done()
                return
            async for item in items:
                if isinstance(item, HandOn):
                    await writer.hand_on(item)
                    continue
                status = isinstance(item, Status)
                frame = Frame(seq=writer.count, status=item if status else None, data=None if status else item)
                await writer.frame(self._encode(frame))
            if not writer.is_handed_on:
                await writer.done()


def _last_token(subject: str) -> str:
    return subject.rsplit(".", 1)[-1]


def _seconds(text: str | None) -> float | None:
    with suppress(ValueError):
        return float(text) if text else None
    return None


def _end(task: asyncio.Task[None], why: str) -> None:
    # Only once: another cancel, such as the 503 of the next frame, would interrupt the clean-up.
    if not task.cancelling():
        log.info("request.cancelled", request_id=task.get_name(), why=why)
        task.cancel(why)


async def _hang_up(nc: Client, service: Service) -> None:
    """Stop listening, and start what is on its way by then: `Service.stop` alone would drop it."""
    subscriptions = _subscriptions(service)
    for subscription in subscriptions:
        await nc._send_unsubscribe(subscription._id)  # noqa: SLF001 - `unsubscribe` drops, `drain` ends too early
    await received(nc, 5)
    for subscription in subscriptions:
        await subscription._pending_queue.join()  # noqa: SLF001 - as in nats-py's own drain


async def _stop(service: Service) -> None:
    """End the service. Its own `stop` waits for the server, and leaves the rest as it is when that does not answer."""
    for subscription in _subscriptions(service):
        await subscription.unsubscribe()


def _subscriptions(service: Service) -> list[Subscription]:
    endpoints = [endpoint._subscription for endpoint in service._endpoints]  # noqa: SLF001 - not offered
    return [*service._subscriptions.values(), *endpoints]  # noqa: SLF001 - the same


# What follows is the question, not a model.
_OWNERS = frozenset(("jobs", "files", "batches", "history", "models", "webhooks", "subscriptions", "rag"))

_CANCELLED = Failure(code="cancelled", message="The request was cancelled.")
# Whoever hears it does listen, or again: a client that connects anew is away for a moment.
_NOBODY = "nobody listens"
_STOPPING = "stopping"
_ENDS = {
    _NOBODY: Failure(code="unavailable", message="The connection was lost for a moment; ask again.", retry_after=1),
    _STOPPING: Failure(code="unavailable", message="What answered this has stopped; ask again.", retry_after=1),
}
_UNREACHABLE = Failure(code="unavailable", message="The message server did not answer; ask again.", retry_after=1)
_CRASHED = Failure(code="crashed", message="The actor crashed on this request.", retry_after=1)
_RESTARTING = Failure(code="restarting", message="The actor is restarting after a crash; ask again.", retry_after=1)
