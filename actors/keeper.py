"""The keeper of the heavy slots: asks the scheduler who may have one, and does what it says.

Listens on  fusion.heartbeat.*, fusion.control.<instance>.released.*
Owns        the slots, and the leases on them
Never       decides: that is `slots.py`
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import structlog
from msgspec import Struct
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from actors.config import ActorsConfig
from actors.recorder import Recorder
from actors.registry import Registry
from actors.slot_steps import Drain, Grant, Heavy, Load, Refuse, Slot, Step
from actors.slots import Scheduler
from bus.client import Bus
from bus.errors import BusError, Failure, LostError, RefusedError, error_of
from bus.ids import new_id
from bus.messages import slots
from bus.messages.catalogue import ModelEntry
from bus.messages.presence import Heartbeat
from bus.messages.slots import LoadSlot, SlotLoaded
from bus.subjects import DRAIN, LOAD_SLOT, RELEASED, fill, unescape
from eventlog.events import ModelDraining, ModelLoading, ModelRefused, ModelUnloaded

log = structlog.get_logger()

# What has ended of itself is told to those who wait as something that may pass.
_PASSING = frozenset(("queue_full", "crashed"))


class Lease(Struct, frozen=True):
    """The right to a slot, or a place in the queue for one: `turn` has the slot's instance when it comes."""

    id: str
    turn: asyncio.Future[str]


class _Ending(Struct, frozen=True):
    step: Drain
    begun: float
    used_bytes: int


class Keeper:
    """Keeps the heavy slots. `need` tells how much memory a model is expected to take."""

    def __init__(
        self,
        bus: Bus,
        scheduler: Scheduler,
        registry: Registry,
        config: ActorsConfig,
        *,
        instance: str,
        need: Callable[[ModelEntry], int],
    ) -> None:
        self.errors: dict[str, str] = {}
        self._bus = bus
        self._scheduler = scheduler
        self._registry = registry
        self._config = config
        self._instance = instance
        self._need = need
        self._recorder: Recorder | None = None
        self._group: asyncio.TaskGroup | None = None
        self._turns: dict[str, asyncio.Future[str]] = {}
        self._ending: dict[str, _Ending] = {}
        self._first: dict[str, tuple[str, int]] = {}
        # The last heartbeat of each slot that was taken in. It counts once: what happened after it knows better.
        self._taken_in: dict[str, Heartbeat] = {}

    async def run(self, recorder: Recorder) -> None:
        """Keep the slots for ever."""
        self._recorder = recorder
        released = await self._bus.nc.subscribe(fill(RELEASED, self._instance, "x")[:-1] + "*", cb=self._on_released)
        try:
            async with asyncio.TaskGroup() as self._group:
                self._group.create_task(self._watch())
                self._group.create_task(self._tick())
        finally:
            await released.unsubscribe()

    def ask(self, entry: ModelEntry, keep: float | None = None) -> Lease:
        """Ask for a slot that has the model. The turn raises `RefusedError` when there can be none."""
        lease = Lease(new_id("lease"), asyncio.get_running_loop().create_future())
        self._turns[lease.id] = lease.turn
        self._do(self._scheduler.ask(lease.id, self._heavy(entry), time.monotonic(), keep))
        return lease

    def release(self, lease: str) -> None:
        """Give a lease, or a place in the queue, back. Giving it back twice does nothing."""
        self._turns.pop(lease, None)
        self._do(self._scheduler.release(lease, time.monotonic()))

    def address_for_release(self, lease: str) -> str:
        """Return the subject on which a slot gives the lease back."""
        return fill(RELEASED, self._instance, lease)

    def unload(self, model: str, why: str) -> None:
        """Have the model's slot finish what runs, and end."""
        self._do(self._scheduler.unload(model, why, time.monotonic()))

    def slot_of(self, model: str) -> Slot | None:
        """Return the slot that has the model, also one that is ending."""
        ending = (slot for slot in self._scheduler.slots.values() if slot.model and slot.model.id == model)
        return self._scheduler.slot_of(model) or next(ending, None)

    def has(self, slot: str) -> bool:
        """Whether the slot's process is there."""
        return slot in self._scheduler.slots

    def ending(self) -> list[str]:
        """Return the models whose slots are ending."""
        return [slot.model.id for slot in self._scheduler.slots.values() if slot.model and slot.state == "draining"]

    def place_of(self, model: str, lease: str) -> int:
        """Return the number of the lease in the queue for the model, from 1; 0 when it does not wait."""
        order = self._scheduler.waiting(model)
        return order.index(lease) + 1 if lease in order else 0

    def is_wanted(self, model: str) -> bool:
        """Whether somebody waits for the model, or it has a slot."""
        return bool(self._scheduler.waiting(model)) or self._scheduler.slot_of(model) is not None

    def _heavy(self, entry: ModelEntry) -> Heavy:
        return Heavy(
            id=entry.id,
            need_bytes=self._need(entry),
            priority=entry.priority,
            pinned=entry.pinned,
            ttl=self._config.model_ttl if entry.ttl is None else entry.ttl,
        )

    def _do(self, steps: list[Step]) -> None:
        refused = {(step.model, step.why): step for step in steps if isinstance(step, Refuse)}
        for refusal in refused.values():  # One for all who hear of it.
            if refusal.code != "queue_full":
                self.errors[refusal.model] = refusal.why
                self._record(ModelRefused, refusal)
        for step in steps:
            log.debug("slots.step", step=repr(step))
            match step:
                case Grant():
                    self._settle(step.request, step.slot)
                case Refuse():
                    self._refuse(step)
                case Load():
                    self._record(ModelLoading, step, instance=step.slot, estimated_bytes=step.need_bytes)
                    self._start(self._load(step))
                case Drain():
                    self._record(ModelDraining, step, instance=step.slot)
                    used = self._scheduler.slots[step.slot].measured_bytes
                    self._ending[step.slot] = _Ending(step, time.monotonic(), used)
                    self._start(self._drain(step.slot, self._config.unload_seconds, step.why))

    def _settle(self, lease: str, slot: str) -> None:
        turn = self._turns.get(lease)
        if turn is not None and not turn.done():
            turn.set_result(slot)

    def _refuse(self, step: Refuse) -> None:
        turn = self._turns.get(step.request)
        if turn is not None and not turn.done():
            retry_after = 1.0 if step.code in _PASSING else None
            turn.set_exception(
                error_of(Failure(code=step.code, message=step.why, param="model", retry_after=retry_after))
            )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._group is not None  # noqa: S101 - steps are only taken while it runs
        self._group.create_task(work)

    async def _load(self, step: Load) -> None:
        entry = self._registry.find(step.model)
        error: BusError | None = None
        loaded: SlotLoaded | None = None
        if entry is None:
            error = RefusedError("model_not_found", f"The model '{step.model}' does not exist.", param="model")
        else:
            try:
                loaded = await self._loaded(step.slot, entry)
            except TimeoutError:
                message = f"{entry.id} was not loaded within {self._config.load_seconds:g} s."
                error = RefusedError("timeout", message)
            except BusError as lost:
                error = lost
        if loaded is not None:
            self.errors.pop(step.model, None)
            self._do(self._scheduler.slot_ready(step.slot, loaded.memory_bytes, time.monotonic()))
            return
        assert error is not None  # noqa: S101 - one of both is there
        log.warning("slot.load_failed", model=step.model, slot=step.slot, error=str(error))
        if isinstance(error, RefusedError):
            self.errors[step.model] = str(error)
            self._do(self._scheduler.slot_failed(step.slot, error.code, str(error), time.monotonic()))
        # Otherwise it has crashed, is out of sight, or the order was lost: when it has ended, those who wait are placed
        # anew.
        await self._drain(step.slot, 0.0, "loading failed")

    async def _loaded(self, slot: str, entry: ModelEntry) -> SlotLoaded:
        """Return what the slot says when it has loaded the model. It is told again when the connection was lost."""
        async with asyncio.timeout(self._config.load_seconds):
            while True:
                try:
                    return await self._told(slot, entry)
                except LostError as error:
                    if error.code != "stream_broken":
                        raise
                await self._until_heard(slot)

    async def _until_heard(self, slot: str) -> None:
        """Return when the slot has said something more, so that it is connected again, or is there no more."""
        heard = [beat for beat in self._bus.presence.instances if beat.instance == slot]
        await self._bus.presence.until(lambda beats: not any(beat in heard for beat in beats))

    async def _told(self, slot: str, entry: ModelEntry) -> SlotLoaded:
        async with self._bus.stream(LOAD_SLOT(slot), LoadSlot(entry=entry)) as answer:
            async for item in answer:
                if isinstance(item, SlotLoaded):
                    return item
        raise LostError("stream_broken", f"The slot {slot} did not say how loading went.")

    async def _drain(self, slot: str, seconds: float, why: str) -> None:
        try:
            await self._bus.publish(fill(DRAIN, slot), slots.Drain(seconds=seconds, why=why))
        except NatsError as error:
            log.warning("slot.drain_unsent", slot=slot, error=str(error))

    async def _watch(self) -> None:
        while True:
            self._look()
            await self._bus.presence.changed()

    def _look(self) -> None:
        """Take in what the slots say of themselves, and which of them are gone."""
        now, beats = time.monotonic(), self._bus.presence.instances
        warm = [beat for beat in beats if beat.model is not None and beat.slot is None]
        self._scheduler.warm_bytes = sum(max(beat.rss_bytes, beat.mlx_bytes) for beat in warm)
        for beat in warm:
            self._recycle_grown(beat)
        there = {beat.instance: beat for beat in beats if beat.slot is not None}
        for name in [name for name in self._scheduler.slots if name not in there]:
            self._gone(name, now)
        for name, beat in there.items():
            used = max(beat.rss_bytes, beat.mlx_bytes)
            if name in self._scheduler.slots:
                if self._taken_in.get(name) is not beat:
                    is_draining = beat.state == "draining"
                    self._do(self._scheduler.slot_works(name, beat.working, used, now, is_draining=is_draining))
                self._release_lost(self._scheduler.slots[name], beat, now)
            elif beat.state == "empty":
                self._do(self._scheduler.slot_empty(name, now))
            elif beat.state in {"ready", "stuck"} and (entry := self._registry.find(beat.model or "")):
                self._do(self._scheduler.slot_adopted(name, self._heavy(entry), used, now, beat.working))
        self._taken_in = there

    def _release_lost(self, slot: Slot, beat: Heartbeat, now: float) -> None:
        """Take back the leases of a slot where nothing runs: the word that they were released was lost."""
        # What it has said is at most as old as `silence`, or else it counts as gone.
        if slot.leases and beat.working == 0 and now - slot.used_at > 2 * self._bus.config.silence:
            log.warning("leases.lost", slot=slot.name, count=len(slot.leases))
            for lease in tuple(slot.leases):
                self.release(lease)

    def _recycle_grown(self, beat: Heartbeat) -> None:
        """Have an idle warm model's process take the place of one that has grown too much."""
        entry = self._registry.find(beat.model or "")
        if entry is None or beat.state != "ready" or beat.working:
            return
        used = max(beat.rss_bytes, beat.mlx_bytes)
        if self._first.get(entry.id, ("", 0))[0] != beat.instance:
            self._first[entry.id] = beat.instance, max(used, self._need(entry))
        if used > self._first[entry.id][1] + self._scheduler.rules.growth_bytes:
            self._first[entry.id] = beat.instance, used  # Told once, as long as it does not grow further.
            why = f"its memory has grown to {used / 2**30:.3g} GB"
            log.warning("model.recycled", model=entry.id, instance=beat.instance, why=why)
            self._start(self._drain(beat.instance, self._config.unload_seconds, why))

    def _gone(self, name: str, now: float) -> None:
        ending = self._ending.pop(name, None)
        if ending is not None:
            self._record(
                ModelUnloaded,
                ending.step,
                instance=name,
                seconds=now - ending.begun,
                freed_bytes=ending.used_bytes,
            )
        self._do(self._scheduler.slot_gone(name, now))

    async def _tick(self) -> None:
        while True:
            self._do(self._scheduler.tick(time.monotonic()))
            await asyncio.sleep(1.0)

    async def _on_released(self, msg: Msg) -> None:
        self.release(unescape(msg.subject.rsplit(".", 1)[1]))

    def _record(self, kind: Any, step: Refuse | Load | Drain, **fields: Any) -> None:
        assert self._recorder is not None  # noqa: S101 - steps are only taken while it runs
        self._recorder.put(kind(id=new_id(), at=datetime.now(UTC), model=step.model, why=step.why, **fields))
