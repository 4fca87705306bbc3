"""The keeper of the slots: what it makes of their heartbeats, which come late and again and again."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from actors.capabilities import chat_capability
from actors.config import ActorsConfig
from actors.engines.echo import EchoEngine
from actors.host import Host
from actors.keeper import Keeper
from actors.recorder import Recorder
from actors.registry import Registry
from actors.slot import Slot as SlotProcess
from actors.slot_steps import Rules
from actors.slots import Scheduler
from bus.blobs import Blobs
from bus.client import Bus, settled
from bus.events import EventLog
from bus.messages.catalogue import ModelEntry
from bus.messages.presence import Heartbeat, InstanceState
from bus.streams import ensure_streams
from tests.support.nats import Server, connected, plain_client, until

MODELS = ("one", "two")
ENTRIES = tuple(ModelEntry(id=name, kind="chat", tier=2) for name in MODELS)


async def beat(bus: Bus, model: str, working: int, rss_bytes: int) -> None:
    """Say what the slot that has the model says."""
    said = Heartbeat(
        instance=f"slot-{model}",
        role="chat",
        state="ready",
        pid=1,
        at=time.time(),
        model=model,
        slot=MODELS.index(model),
        working=working,
        rss_bytes=rss_bytes,
    )
    await bus.publish(f"fusion.heartbeat.{said.instance}", said)


async def empty_beat(bus: Bus, slot: str, state: InstanceState = "empty") -> None:
    """Say what a slot without a model says."""
    said = Heartbeat(instance=slot, role="slot", state=state, pid=1, at=time.time(), slot=1)
    await bus.publish(f"fusion.heartbeat.{slot}", said)


@asynccontextmanager
async def keeping(bus: Bus, scheduler: Scheduler, folder: Path) -> AsyncGenerator[Keeper]:
    """Keep the slots of `scheduler` until the block ends."""
    registry = Registry(lambda: ENTRIES, folder / "models.json")
    keeper = Keeper(bus, scheduler, registry, ActorsConfig(), instance="core", need=lambda _: 2**20)
    running = asyncio.create_task(keeper.run(Recorder(EventLog(bus))))
    try:
        yield keeper
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def slot_of_its_own(url: str, folder: Path, may_load: asyncio.Event) -> AsyncGenerator[asyncio.Event]:
    """Run a slot whose models echo, once they may be loaded. What is given is set when it has been told to load one."""
    is_told = asyncio.Event()

    async def host_of(entry: ModelEntry) -> Host:
        is_told.set()
        await may_load.wait()
        return Host(bus, entry, chat_capability(EchoEngine()), ActorsConfig(), "slot-1", slot=1)

    async def serve(host: Host) -> None:
        await host.run(Recorder(EventLog(bus)), Blobs(folder / "blobs"))

    async with connected(url, "slot") as bus:
        await ensure_streams(bus.nc, keep_days=7)
        running = asyncio.create_task(SlotProcess(bus, "slot-1", 1, host_of=host_of, serve=serve).run())
        try:
            yield is_told
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_model_that_is_being_loaded_when_the_server_is_killed_is_loaded_all_the_same(
    server: Server, tmp_path: Path
) -> None:
    scheduler, may_load = Scheduler(Rules(budget_bytes=2**30), expected=1), asyncio.Event()
    async with (
        connected(server.url) as bus,
        slot_of_its_own(server.url, tmp_path, may_load) as is_told,
        keeping(bus, scheduler, tmp_path) as keeper,
    ):
        await until(lambda: keeper.has("slot-1"))
        lease = keeper.ask(ENTRIES[0])
        await is_told.wait()
        for _ in range(2):
            reconnects = bus.nc.stats["reconnects"]
            await server.kill()
            await server.start()
            await until(lambda reconnects=reconnects: bus.nc.stats["reconnects"] > reconnects)
        may_load.set()
        async with asyncio.timeout(60):
            slot = await lease.turn

        assert (slot, keeper.errors) == ("slot-1", {})


async def test_what_a_slot_said_before_its_lease_was_released_is_no_work_after_that(
    nats_url: str, tmp_path: Path
) -> None:
    scheduler = Scheduler(Rules(budget_bytes=2**30), expected=2)
    async with connected(nats_url) as bus, keeping(bus, scheduler, tmp_path) as keeper:
        for model in MODELS:
            await beat(bus, model, working=0, rss_bytes=2**20)
            await until(lambda model=model: keeper.slot_of(model) is not None)
        lease = keeper.ask(ENTRIES[0])
        assert await lease.turn == "slot-one"
        slot = scheduler.slots["slot-one"]
        await beat(bus, "one", working=1, rss_bytes=2 * 2**20)
        await until(lambda: slot.measured_bytes == 2 * 2**20)
        keeper.release(lease.id)
        released_at = slot.used_at

        await beat(bus, "two", working=0, rss_bytes=3 * 2**20)
        await until(lambda: scheduler.slots["slot-two"].measured_bytes == 3 * 2**20)

        assert (slot.is_busy, slot.used_at) == (False, released_at)
        await beat(bus, "one", working=1, rss_bytes=4 * 2**20)  # A job, for which nobody asked here.
        await until(lambda: slot.is_busy)


async def test_model_whose_order_was_lost_on_the_way_is_loaded_by_the_next_slot(nats_url: str, tmp_path: Path) -> None:
    scheduler = Scheduler(Rules(budget_bytes=2**30), expected=1)
    async with (
        connected(nats_url, admit_timeout=0.1) as bus,
        keeping(bus, scheduler, tmp_path) as keeper,
        plain_client(nats_url) as nc,
    ):
        orders, drains = await nc.subscribe("fusion.slots.load.*"), await nc.subscribe("fusion.control.*.drain")
        await settled(nc)
        await empty_beat(bus, "slot-1")
        await until(lambda: keeper.has("slot-1"))
        lease = keeper.ask(ENTRIES[0])
        first = await orders.next_msg(timeout=60)  # And nobody answers.
        drained = await drains.next_msg(timeout=60)
        await empty_beat(bus, "slot-1", "down")
        await empty_beat(bus, "slot-2")
        second = await orders.next_msg(timeout=60)

        assert [first.subject, second.subject] == ["fusion.slots.load.slot-1", "fusion.slots.load.slot-2"]
        assert drained.subject == "fusion.control.slot-1.drain"
        assert (lease.turn.done(), keeper.errors) == (False, {})
