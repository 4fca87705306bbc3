"""A heavy slot: waits for a model, answers for it, and ends when it is told to drain.

Listens on  fusion.slots.load.<instance>, fusion.control.<instance>.drain
Owns        one model, from the order to load it until the end of this process, which gives all memory back
Never       takes a second model
"""

import asyncio
import importlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
import psutil
import structlog
from nats.aio.msg import Msg

from actors.catalogue import ModelFilesError
from actors.host import Host
from bus.client import Bus
from bus.errors import BusError, RefusedError
from bus.frames import Status
from bus.heartbeat import beating
from bus.messages.catalogue import ModelEntry
from bus.messages.presence import Heartbeat
from bus.messages.slots import Drain, LoadSlot, SlotLoaded
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.subjects import DRAIN, LOAD_SLOT, fill

log = structlog.get_logger()

# How often the asker hears that loading goes on, in seconds.
_PERIOD = 2.0

# Until those who wait have been told that loading failed.
_TOLD_WITHIN = 2.0

_WHAT_LOADING_RAISES = (ModelFilesError, BusError)


def import_engine() -> None:
    """Import what most models need, which takes a second, before one is to be loaded."""
    importlib.import_module("actors.engines.text")


class Slot:
    """One slot. `host_of` builds what hosts a model, which may take long; `serve` runs it until it is drained."""

    def __init__(
        self,
        bus: Bus,
        instance: str,
        number: int,
        *,
        host_of: Callable[[ModelEntry], Awaitable[Host]],
        serve: Callable[[Host], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._instance = instance
        self._number = number
        self._host_of = host_of
        self._serve = serve
        self._process = psutil.Process()
        self._host: Host | None = None
        self._order: Drain | None = None
        loop = asyncio.get_running_loop()
        self._entry: asyncio.Future[ModelEntry | None] = loop.create_future()
        self._loaded: asyncio.Future[SlotLoaded] = loop.create_future()

    async def run(self) -> None:
        """Live one life. Raises what ends a model that had been loaded; what keeps one from loading is told instead."""
        info = ServiceInfo(name="fusion-slot", instance=self._instance, description="A place for one heavy model")
        drains = await self._bus.nc.subscribe(fill(DRAIN, self._instance), cb=self._on_drain)
        async with serving(self._bus, info, Endpoint(LOAD_SLOT(self._instance), self.load), drain=_TOLD_WITHIN):
            begun, host = await self._prepared()
            if host is not None:
                await self._run(host, begun)
        await drains.unsubscribe()

    async def load(self, request: LoadSlot, _: Caller) -> AsyncGenerator[SlotLoaded | Status]:
        """Load the model, and answer when it answers itself. Told twice to load the same one, load it once."""
        if self._entry.done() and self._entry.result() != request.entry:
            raise RefusedError("conflict", f"The slot {self._instance} is not empty.")
        if not self._entry.done():
            self._entry.set_result(request.entry)
        while not self._loaded.done():
            yield Status(instance=self._instance)
            await asyncio.wait((self._loaded,), timeout=_PERIOD)
        yield self._loaded.result()

    async def _prepared(self) -> tuple[float, Host | None]:
        """Wait for an order; return when it came, and what hosts its model, None if there is nothing to host."""
        async with beating(self._bus, self._look):
            entry = await self._entry
            begun = time.monotonic()
            if entry is None:
                return begun, None
            try:
                return begun, await self._host_of(entry)
            except _WHAT_LOADING_RAISES as error:
                self._tell_failed(error)
                return begun, None

    async def _run(self, host: Host, begun: float) -> None:
        self._host = host
        running = asyncio.ensure_future(self._serve(host))
        ready = asyncio.ensure_future(host.ready.wait())
        try:
            await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                self._tell_failed(running.exception())
                return
            self._loaded.set_result(SlotLoaded(seconds=time.monotonic() - begun, memory_bytes=host.memory_bytes))
            if self._order is not None:
                host.drain(self._order)
            await running
        finally:
            ready.cancel()
            running.cancel()
            await asyncio.wait((running,))

    def _tell_failed(self, error: BaseException | None) -> None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        log.error("slot.load_failed", error=repr(error), exc_info=error)
        known = isinstance(error, _WHAT_LOADING_RAISES)
        why = str(error) if known else f"The model cannot be loaded: {error!r}."
        self._loaded.set_exception(RefusedError("invalid_request" if known else "internal_error", why, param="model"))

    async def _on_drain(self, msg: Msg) -> None:
        self._order = msgspec.json.decode(msg.data, type=Drain)
        log.info("slot.draining", why=self._order.why, seconds=self._order.seconds)
        if not self._entry.done():
            self._entry.set_result(None)
        if self._host is not None and self._host.ready.is_set():
            self._host.drain(self._order)

    async def _look(self) -> Heartbeat:
        entry = self._entry.result() if self._entry.done() else None
        return Heartbeat(
            instance=self._instance,
            role="slot",
            state="starting" if entry else "empty",
            pid=os.getpid(),
            at=time.time(),
            model=entry.id if entry else None,
            slot=self._number,
            rss_bytes=self._process.memory_info().rss,
        )
