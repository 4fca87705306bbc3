"""The models actor: when heavy models can be asked, and warm ones whose process has grown too much."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from nats.aio.msg import Msg

from actors import models
from actors.config import ActorsConfig
from bus.client import settled
from bus.errors import RefusedError
from bus.heartbeat import say
from bus.messages.catalogue import ModelEntry
from bus.messages.chat import ChatRequest
from bus.messages.models import GetModel, ListModels, ReloadCatalogue
from bus.messages.presence import Heartbeat
from bus.messages.slots import Drain
from bus.messages.tokens import TokenizeRequest
from bus.streams import ensure_streams
from bus.subjects import CHAT, DRAIN, GET_MODEL, LIST_MODELS, RELOAD_CATALOGUE, TOKENIZE, fill
from tests.support.nats import Server, connected, until

MIB = 2**20
WARM = (ModelEntry(id="m", path="embedded:x", kind="chat", memory_bytes=100 * MIB),)


def beat(rss_mib: int, *, working: int = 0, mlx_mib: int = 0) -> Heartbeat:
    return Heartbeat(
        instance="model-m-1",
        role="chat",
        state="ready",
        pid=1,
        at=0.0,
        model="m",
        working=working,
        rss_bytes=rss_mib * MIB,
        mlx_bytes=mlx_mib * MIB,
    )


async def opened() -> None:
    """Nobody waits for it."""


async def test_heavy_models_can_be_asked_as_soon_as_it_is_said(server: Server, tmp_path: Path) -> None:
    broken = ModelEntry(id="h", path="embedded:none", kind="chat", tier=2, aliases=("other",))
    refusals = list[str]()
    asked = asyncio.Event()

    async def ask() -> None:
        for name in ("h", "other"):
            async with bus.stream(CHAT(name), ChatRequest(prompt="x")) as answer:
                with pytest.raises(RefusedError) as refused:
                    async for _ in answer:
                        pass
            refusals.append(str(refused.value))
        asked.set()

    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        child = models.child(bus, lambda: (broken,), tmp_path, ActorsConfig(), "core-1", ask)
        life = asyncio.ensure_future(child.run())
        async with asyncio.timeout(60):
            await asked.wait()
        life.cancel()
        await asyncio.wait((life,))

    assert refusals == ["There is no folder embedded:none."] * 2


async def test_heavy_models_of_a_catalogue_read_again_can_be_asked_as_soon_as_they_are_listed(
    server: Server, tmp_path: Path
) -> None:
    entries = [tuple(ModelEntry(id=f"h{i}", path="embedded:none", kind="chat", tier=2) for i in range(50)), ()]

    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        is_open = asyncio.Event()

        async def on_open() -> None:
            is_open.set()

        life = asyncio.ensure_future(models.child(bus, entries.pop, tmp_path, ActorsConfig(), "core-1", on_open).run())
        async with asyncio.timeout(60):
            await is_open.wait()
            assert not (await bus.ask(LIST_MODELS(), ListModels())).models
            reloading = asyncio.create_task(bus.ask(RELOAD_CATALOGUE(), ReloadCatalogue()))
            while not (listed := (await bus.ask(LIST_MODELS(), ListModels())).models):
                pass
        with pytest.raises(RefusedError) as refused:
            await bus.ask(TOKENIZE(listed[-1].id), TokenizeRequest(prompt="x"))
        await reloading
        life.cancel()
        await asyncio.wait((life,))

    assert str(refused.value) == "There is no folder embedded:none."


@pytest.mark.parametrize(
    ("path", "memory_bytes", "why"),
    [("embedded:none", None, "There is no folder embedded:none."), ("embedded:fusion-toy", 2**50, "needs 1.05e+06 GB")],
)
async def test_card_of_a_model_that_could_not_be_loaded_says_why(
    server: Server, tmp_path: Path, path: str, memory_bytes: int | None, why: str
) -> None:
    entry = ModelEntry(id="h", path=path, kind="chat", tier=2, memory_bytes=memory_bytes)

    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        is_open = asyncio.Event()

        async def on_open() -> None:
            is_open.set()

        child = models.child(bus, lambda: (entry,), tmp_path, ActorsConfig(slots=1), "core-1", on_open)
        life = asyncio.ensure_future(child.run())
        async with asyncio.timeout(60):
            await is_open.wait()
        before = await bus.ask(GET_MODEL(), GetModel(model="h"))
        with pytest.raises(RefusedError) as refused:
            await bus.ask(TOKENIZE("h"), TokenizeRequest(prompt="x"))
        after = await bus.ask(GET_MODEL(), GetModel(model="h"))
        life.cancel()
        await asyncio.wait((life,))

    assert (before.state, before.error) == ("unloaded", None)
    assert (after.state, after.error) == ("failed", str(refused.value))
    assert why in str(refused.value)


async def test_process_that_has_grown_too_much_is_told_once_to_drain_when_it_is_idle(
    server: Server, tmp_path: Path
) -> None:
    orders: list[Drain] = []

    async def on_drain(msg: Msg) -> None:
        orders.append(msgspec.json.decode(msg.data, type=Drain))

    config = ActorsConfig(recycle_growth_gb=1.0, unload_seconds=7.0)
    async with connected(server.url) as bus:
        await ensure_streams(bus.nc, keep_days=7)
        await bus.nc.subscribe(fill(DRAIN, "model-m-1"), cb=on_drain)
        life = asyncio.ensure_future(models.child(bus, lambda: WARM, tmp_path, config, "core-1", opened).run())
        seen = [beat(90), beat(1100), beat(1200, working=1), beat(1150, mlx_mib=1200), beat(1201)]
        told = []
        for each in seen:
            await say(bus, each)
            await until(lambda each=each: each in bus.presence.instances)  # type: ignore[misc]
            await settled(bus.nc)
            told.append(len(orders))
        await until(lambda: orders)
        life.cancel()
        await asyncio.wait((life,))

    assert told[:3] == [0, 0, 0]
    assert [(order.seconds, "grown" in order.why) for order in orders] == [(7.0, True)]
