"""The door before the heavy models: lets requests in when their model has a slot, and hands them on to it.

Listens on  fusion.<operation>.<heavy model>, fusion.wake.*.*.*
Owns        nothing: the leases are the keeper's
Never       reads a request: it goes on to the slot as it came, and the slot answers the asker
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import structlog
from msgspec import Raw
from nats.aio.msg import Msg

from actors.capabilities import SUBJECTS
from actors.config import ActorsConfig
from actors.keeper import Keeper, Lease
from actors.registry import Registry
from actors.surveyor import Surveyor
from bus.client import Bus
from bus.errors import BusError, RefusedError
from bus.frames import Status
from bus.messages.catalogue import HEAVY, ModelEntry
from bus.messages.jobs import RefuseJobs
from bus.serve import Caller, Endpoint, Receive, Serving
from bus.streams import is_queued
from bus.subjects import CANCEL, REFUSE_JOBS, WAKE, Address, Subject, fill, unescape
from bus.writer import HandOn

log = structlog.get_logger()

# How often those who wait hear how it stands, and how often jobs are looked for that woke nobody, in seconds.
_PERIOD = 1.0
_JOBS_PERIOD = 10.0

# Until a model that could not be loaded is tried again for its jobs, in seconds.
_PAUSE = 300.0

# Why a model whose files are here will not be loaded the next time either.
_FOR_GOOD = frozenset(("insufficient_memory", "invalid_request", "model_not_found", "unsupported_parameter"))


class Door:
    """Lets requests in to the heavy models, each after at most `queue_timeout` seconds."""

    def __init__(
        self, bus: Bus, keeper: Keeper, registry: Registry, surveyor: Surveyor, instance: str, config: ActorsConfig
    ) -> None:
        self._bus = bus
        self._keeper = keeper
        self._registry = registry
        self._surveyor = surveyor
        self._instance = instance
        self._queue_timeout = config.queue_timeout
        self._load_seconds = config.load_seconds
        self._opened: set[str] = set()
        self._opening = asyncio.Lock()
        self._begun = asyncio.Event()
        self._served: Serving | None = None
        self._not_before: dict[str, float] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._for_jobs: dict[str, asyncio.Task[None]] = {}

    async def run(self, served: Serving, on_open: Callable[[], Awaitable[None]]) -> None:
        """Open the door for all heavy models, say so, and have those loaded that jobs wait for, for ever."""
        self._served = served
        self._begun.set()
        await self.open()
        await on_open()
        for entry in self._heavy():
            if entry.preload:
                self.ensure(entry)
        wakes = await self._bus.nc.subscribe(WAKE, cb=self._on_wake)
        try:
            while True:
                await self.open()
                await self._look_for_jobs()
                await asyncio.sleep(_JOBS_PERIOD)
        finally:
            await wakes.unsubscribe()

    async def open(self) -> None:
        """Listen for all heavy models there are by now, by their ids and aliases. Waits until `run` has begun."""
        await self._begun.wait()
        async with self._opening:
            for entry in self._heavy():
                await self._surveyor.look(entry)
                for subject in SUBJECTS.get(entry.kind, ()):
                    for name in (entry.id, *entry.aliases):
                        await self._listen(subject, name)

    async def _listen(self, subject: Subject[Any, Any], name: str) -> None:
        assert self._served is not None  # noqa: S101 - `open` waits for it
        address = subject(name)
        if address.name not in self._opened:
            raw: Address[Any, Any] = Address(address.name, Raw, address.reply, address.streamed)
            await self._served.listen(Endpoint(raw, self._receive_for(subject, name)))
            self._opened.add(address.name)

    def ensure(self, entry: ModelEntry, keep: float | None = None) -> asyncio.Task[None]:
        """Have the model loaded, once for all who want it, and also when nobody waits for it any more.

        The task raises `RefusedError` when it cannot be.
        """
        if entry.id not in self._loading:
            task = self._loading[entry.id] = asyncio.create_task(self._load(entry, keep), name=f"load {entry.id}")
            task.add_done_callback(lambda _: self._loading.pop(entry.id))
            task.add_done_callback(_look_at)
        return self._loading[entry.id]

    async def _load(self, entry: ModelEntry, keep: float | None) -> None:
        async for _ in self._preparing(entry, self._load_seconds):
            pass
        lease = self._keeper.ask(entry, keep)
        try:
            async for _ in self._waiting(entry, lease):
                pass
            lease.turn.result()
        finally:
            self._keeper.release(lease.id)

    def _receive_for(self, subject: Subject[Any, Any], name: str) -> Receive[Any, Any]:
        async def receive(_: Raw, caller: Caller) -> AsyncGenerator[Status | HandOn]:
            entry = self._registry.find(name)
            if entry is None:
                raise RefusedError("model_not_found", f"The model '{name}' does not exist.", param="model")
            async for status in self._preparing(entry, self._queue_timeout):
                if subject.streamed:
                    yield status
            lease = self._keeper.ask(entry, caller.keep_alive)
            is_handed_on = False
            try:
                async for status in self._waiting(entry, lease):
                    if subject.streamed:
                        yield status
                slot = lease.turn.result()
                yield HandOn(
                    subject=subject.at(entry.id, slot).name,
                    lease=self._keeper.address_for_release(lease.id),
                    cancel=fill(CANCEL, slot, lease.id),
                    status=Status(instance=slot, model=entry.id),
                )
                is_handed_on = True
            finally:
                if not is_handed_on:
                    self._keeper.release(lease.id)

        return receive

    async def _preparing(self, entry: ModelEntry, limit: float) -> AsyncGenerator[Status]:
        """Yield that the model is coming until its files are here. Raises `RefusedError`, also after the limit."""
        if self._surveyor.is_prepared(entry):
            return
        begun = time.monotonic()
        task = self._surveyor.prepare(entry)
        while not task.done():
            await asyncio.wait((task,), timeout=_PERIOD)
            waited = time.monotonic() - begun
            if waited >= limit and not task.done():
                message = f"The request waited {limit:g} s for the files of {entry.id} to be fetched."
                raise RefusedError("queue_timeout", message, retry_after=30)
            yield Status(instance=self._instance, loading=round(waited, 1), model=entry.id)
        task.result()

    async def _waiting(self, entry: ModelEntry, lease: Lease) -> AsyncGenerator[Status]:
        """Yield how the request stands until its turn comes. Raises `RefusedError` when it waits for too long."""
        begun, limit = time.monotonic(), self._queue_timeout
        while not lease.turn.done():
            waited = time.monotonic() - begun
            if waited >= limit:
                message = f"The request waited {limit:g} s for {entry.id} to be loaded."
                raise RefusedError("queue_timeout", message, retry_after=5)
            yield self._status(entry, lease)
            await asyncio.wait((lease.turn,), timeout=min(_PERIOD, limit - waited))

    def _status(self, entry: ModelEntry, lease: Lease) -> Status:
        slot = self._keeper.slot_of(entry.id)
        is_loading = slot is not None and slot.state == "loading"
        return Status(
            instance=self._instance,
            position=self._keeper.place_of(entry.id, lease.id),
            loading=round(time.monotonic() - slot.since, 1) if slot and is_loading else None,
            model=entry.id,
        )

    def _heavy(self) -> list[ModelEntry]:
        return [entry for entry in self._registry.entries if entry.tier == HEAVY]

    def _load_for_jobs(self, entry: ModelEntry) -> None:
        if entry.id not in self._for_jobs:
            task = self._for_jobs[entry.id] = asyncio.create_task(self._try_for_jobs(entry), name=f"jobs {entry.id}")
            task.add_done_callback(lambda _: self._for_jobs.pop(entry.id))

    async def _try_for_jobs(self, entry: ModelEntry) -> None:
        """Load the model for its jobs, and see what to do if that fails.

        1. What another try would meet again ends its jobs.
        2. Otherwise, jobs alone have it tried again after a while.
        """
        task = self.ensure(entry)
        await asyncio.wait((task,))
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        is_final = isinstance(error, RefusedError) and error.code in _FOR_GOOD
        if is_final and not await self._surveyor.is_remote(entry):  # 1
            try:
                await self._bus.ask(REFUSE_JOBS(), RefuseJobs(model=entry.id, error=str(error)))
            except BusError as lost:
                log.warning("jobs.not_refused", model=entry.id, error=str(lost))
            else:
                return
        self._not_before[entry.id] = time.monotonic() + _PAUSE  # 2

    def _is_wanted(self, entry: ModelEntry) -> bool:
        return entry.id in self._loading or self._keeper.is_wanted(entry.id)

    async def _look_for_jobs(self) -> None:
        """Load what jobs wait for that were queued while nobody listened."""
        for entry in self._heavy():
            # What a slot is still running before it ends lies in the queue as well.
            is_there = self._is_wanted(entry) or self._keeper.slot_of(entry.id) is not None
            if is_there or time.monotonic() < self._not_before.get(entry.id, 0.0):
                continue
            try:
                if await is_queued(self._bus.nc, entry.id):
                    self._load_for_jobs(entry)
            except BusError as error:
                log.warning("jobs.unknown", model=entry.id, error=str(error))
                return

    async def _on_wake(self, msg: Msg) -> None:
        entry = self._registry.find(unescape(msg.subject.split(".")[3]))
        if entry is not None and entry.tier == HEAVY and not self._is_wanted(entry):
            self._load_for_jobs(entry)


def _look_at(task: asyncio.Task[None]) -> None:
    """Read how it went, so that nobody else has to."""
    if not task.cancelled() and (error := task.exception()):
        log.info("model.not_loaded", why=str(error))
