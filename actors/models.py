"""The models actor: tells which models there are and how they stand, and takes the order to load or unload one.

Listens on  fusion.models.{list,get,load,unload,reload,remove}
Owns        the registry; with the keeper and the door beside it, who has a heavy slot
Never       loads a model itself
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
from msgspec import structs

from actors import recorder
from actors.config import ActorsConfig
from actors.door import Door
from actors.keeper import Keeper
from actors.model_cards import card_of, with_files, with_slot
from actors.model_orders import check_same, entry_for
from actors.registry import Registry
from actors.slot_steps import Rules
from actors.slots import Scheduler
from actors.supervisor import Child, supervising
from actors.surveyor import Surveyor
from bus.client import Bus
from bus.errors import RefusedError
from bus.events import EventLog
from bus.messages.catalogue import HEAVY, ModelEntry
from bus.messages.models import (
    CatalogueReloaded,
    GetModel,
    ListModels,
    LoadModel,
    ModelCard,
    ModelList,
    ModelProgress,
    ModelRemoved,
    ModelState,
    ReloadCatalogue,
    RemoveModel,
    UnloadModel,
)
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.settings import SettingsError
from bus.subjects import GET_MODEL, LIST_MODELS, LOAD_MODEL, RELOAD_CATALOGUE, RELOADED, REMOVE_MODEL, UNLOAD_MODEL

# The part of the machine's memory that models may take when nothing is said: what macOS gives to a GPU at most.
_SHARE = 0.75

# How often those who have ordered something hear how it stands, in seconds.
_PERIOD = 1.0


class Models:
    """Answers for the catalogue."""

    def __init__(
        self, bus: Bus, registry: Registry, surveyor: Surveyor, keeper: Keeper, door: Door, config: ActorsConfig
    ) -> None:
        self._bus = bus
        self._registry = registry
        self._surveyor = surveyor
        self._keeper = keeper
        self._door = door
        self._config = config
        self._created = int(time.time())

    async def list(self, request: ListModels, _: Caller) -> AsyncGenerator[ModelList]:
        """Answer with all models, in the order of the catalogue; whichever is heavy can be asked by then."""
        await self._door.open()
        entries = self._registry.entries
        for entry in entries:
            await self._surveyor.look(entry)
        cards = [self._card(entry) for entry in entries]
        if request.available:
            here = {name for entry in entries for name in (entry.id, entry.path)}
            others = [each for each in await self._surveyor.available() if not {each.id, each.path} & here]
            cards += [structs.replace(self._card(entry), state="available") for entry in others]
        yield ModelList(models=tuple(cards))

    async def get(self, request: GetModel, _: Caller) -> AsyncGenerator[ModelCard]:
        """Answer with one model; if it is heavy it can be asked by then."""
        await self._door.open()
        entry = self._find(request.model)
        await self._surveyor.look(entry)
        yield self._card(entry)

    async def load(self, request: LoadModel, _: Caller) -> AsyncGenerator[ModelProgress]:
        """Have a model loaded, and tell how it goes. Goes on when nobody listens any more."""
        begun = time.monotonic()
        entry = self._registry.find(request.model) if request.model else None
        if entry is None:
            entry = await asyncio.to_thread(entry_for, request, self._config.model_folders)
            entry = self._registry.find(entry.id) or entry
        if self._registry.find(entry.id) is None:
            async for progress in self._adding(entry, begun):
                yield progress
        check_same(request, entry, self._config.model_folders)
        keep = -1.0 if request.ttl == 0 else request.ttl
        turn = self._door.ensure(entry, keep) if entry.tier == HEAVY else None
        while not (turn.done() if turn else self._card(entry).state == "ready"):
            card = self._card(entry)
            seconds = time.monotonic() - begun
            if turn is None and seconds > self._config.load_seconds:
                raise RefusedError("internal_error", f"The model '{entry.id}' is {card.state}.", param="model")
            yield ModelProgress(model=entry.id, state=self._waiting_state(card), seconds=seconds, why=self._why(card))
            await (asyncio.wait((turn,), timeout=_PERIOD) if turn else asyncio.sleep(_PERIOD))
        if turn:
            turn.result()
        seconds = time.monotonic() - begun
        yield ModelProgress(model=entry.id, state="ready", seconds=seconds, done=True, card=self._card(entry))

    async def _adding(self, entry: ModelEntry, begun: float) -> AsyncGenerator[ModelProgress]:
        """Add a model to the catalogue when its files are here, and tell how it goes. Raises `RefusedError`."""
        task = self._surveyor.prepare(entry)
        while not task.done():
            await asyncio.wait((task,), timeout=_PERIOD)
            seconds = time.monotonic() - begun
            yield ModelProgress(model=entry.id, state="loading", seconds=seconds, why="its files are fetched")
        task.result()
        self._registry.add(entry)
        await self._door.open()

    async def unload(self, request: UnloadModel, _: Caller) -> AsyncGenerator[ModelProgress]:
        """Have a heavy model unloaded, and tell how it goes. Goes on when nobody listens any more."""
        entry = self._find(request.model)
        if entry.tier != HEAVY:
            message = f"The model '{entry.id}' is of tier {entry.tier}, which stays loaded."
            raise RefusedError("conflict", message, param="model")
        begun, freed = time.monotonic(), 0
        slot = self._keeper.slot_of(entry.id)
        self._keeper.unload(entry.id, "asked to")
        while slot is not None and self._keeper.has(slot.name):
            freed = max(freed, slot.measured_bytes)
            yield ModelProgress(model=entry.id, state="draining", seconds=time.monotonic() - begun)
            with suppress(TimeoutError):
                async with asyncio.timeout(_PERIOD):
                    await self._bus.presence.changed()
        seconds = time.monotonic() - begun
        yield ModelProgress(model=entry.id, state="unloaded", seconds=seconds, done=True, freed_bytes=freed)

    async def reload(self, _request: ReloadCatalogue, _: Caller) -> AsyncGenerator[CatalogueReloaded]:
        """Read the configured models again. What runs goes on; what is new holds when a model is loaded next."""
        try:
            changes = self._registry.reload()
        except SettingsError as error:
            raise RefusedError("invalid_request", str(error), param="models") from error
        await self._door.open()
        await self._bus.publish(RELOADED, changes)
        yield changes

    async def remove(self, request: RemoveModel, _: Caller) -> AsyncGenerator[ModelRemoved]:
        """Take a model that was added out of the catalogue."""
        entry = self._find(request.model)
        if not self._registry.is_added(entry.id):
            message = f"The model '{entry.id}' stands in the configuration, and is removed there."
            raise RefusedError("conflict", message, param="model")
        if self._keeper.slot_of(entry.id) is not None:
            raise RefusedError("conflict", f"The model '{entry.id}' is loaded; unload it first.", param="model")
        self._registry.remove(entry.id)
        yield ModelRemoved(model=entry.id)

    def _find(self, name: str) -> ModelEntry:
        entry = self._registry.find(name)
        if entry is None:
            raise RefusedError("model_not_found", f"The model '{name}' does not exist.", param="model")
        return entry

    def _why(self, card: ModelCard) -> str:
        ending = self._keeper.ending()
        return f"waits for {', '.join(ending)} to end" if card.state == "waiting" and ending else ""

    def _waiting_state(self, card: ModelCard) -> ModelState:
        return "waiting" if card.state in {"unloaded", "failed"} else card.state

    def _card(self, entry: ModelEntry) -> ModelCard:
        card = card_of(entry, self._bus.presence.instances, self._created)
        found = self._surveyor.of(entry)
        if found is not None:
            card = with_files(card, found, self._surveyor.need_bytes(entry))
        slot = self._keeper.slot_of(entry.id)
        if slot is not None:
            return with_slot(card, slot, self._config.model_ttl if entry.ttl is None else entry.ttl)
        if self._keeper.is_wanted(entry.id):
            return structs.replace(card, state="waiting")
        error = self._surveyor.error_of(entry) or self._keeper.errors.get(entry.id)
        return structs.replace(card, state="failed", error=error) if error else card


def budget_bytes(config: ActorsConfig) -> int:
    """Return how much memory the models may take together."""
    if config.max_memory_gb is not None:
        return int(config.max_memory_gb * 2**30)
    return int(psutil.virtual_memory().total * _SHARE)


def _rules(config: ActorsConfig) -> Rules:
    return Rules(
        budget_bytes=budget_bytes(config),
        policy=config.eviction_policy,
        min_residency=config.min_residency,
        max_overtaken=config.max_overtaken,
        max_overtaken_seconds=config.max_overtaken_seconds,
        max_waiting=config.max_queue_size,
        growth_bytes=int(config.recycle_growth_gb * 2**30),
    )


def child(
    bus: Bus,
    read: Callable[[], tuple[ModelEntry, ...]],
    state: Path,
    config: ActorsConfig,
    instance: str,
    on_open: Callable[[], Awaitable[None]],
) -> Child:
    """Return what the supervisor needs to run this actor.

    `read` returns the configured models; `on_open` hears when the heavy ones can be asked.
    """

    async def run() -> None:
        registry = Registry(read, state / "models.json")
        scheduler = Scheduler(_rules(config), expected=config.slots)
        surveyor = Surveyor(config)
        keeper = Keeper(bus, scheduler, registry, config, instance=instance, need=surveyor.need_bytes)
        door = Door(bus, keeper, registry, surveyor, instance, config)
        owner = Models(bus, registry, surveyor, keeper, door, config)
        recording = recorder.Recorder(EventLog(bus))
        info = ServiceInfo(name="fusion-models", instance=instance, description="The models, and the heavy slots")
        endpoints = (
            Endpoint(LIST_MODELS(), owner.list),
            Endpoint(GET_MODEL(), owner.get),
            Endpoint(LOAD_MODEL(), owner.load),
            Endpoint(UNLOAD_MODEL(), owner.unload),
            Endpoint(RELOAD_CATALOGUE(), owner.reload),
            Endpoint(REMOVE_MODEL(), owner.remove),
        )
        async with (
            supervising(recorder.child(recording)),
            asyncio.TaskGroup() as group,
            serving(bus, info, *endpoints) as served,
        ):
            tasks = [group.create_task(keeper.run(recording)), group.create_task(door.run(served, on_open))]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()

    return Child("models", run)
