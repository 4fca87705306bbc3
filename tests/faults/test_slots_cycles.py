"""What is left when models have been loaded and unloaded over and over: nothing."""

import asyncio
from pathlib import Path

import psutil

from bench.cycles import cycle, footprint, rested
from bus.server import free_port
from tests.support.heavy import ONE, TWO, heavy_up
from tests.support.nats import until_it

CYCLES = 6

# A leaked model, or process, is of 80 MB or more; what the others keep of so many cycles is of a few.
TOLERANCE_MB = 40


async def have_consumers(root: psutil.Process, port: int) -> bool:
    """Whether both models have what their jobs are taken by, which stays when they are unloaded: one per priority."""
    return (await footprint(root, port)).consumers == 6


async def test_cycles_of_loading_and_unloading_leave_nothing_behind(tmp_path: Path) -> None:
    port = free_port()
    async with heavy_up(tmp_path, more=f"nats: {{monitor_port: {port}}}") as fusion:
        root = psutil.Process(fusion.fusion.process.pid)
        await asyncio.gather(fusion.load(ONE), fusion.load(TWO))
        await until_it(lambda: have_consumers(root, port))
        await asyncio.gather(fusion.unload(ONE), fusion.unload(TWO))
        await rested(fusion.bus, 2)
        before = await footprint(root, port)
        await cycle(fusion.http, [ONE, TWO], CYCLES)
        await rested(fusion.bus, 2)
        after = await footprint(root, port)
        states = await fusion.states()

    assert set(states.values()) == {"unloaded"}
    assert after.processes == before.processes
    assert abs(after.rss_mb - before.rss_mb) < TOLERANCE_MB
    assert (after.connections, after.subscriptions, after.consumers) == (
        before.connections,
        before.subscriptions,
        before.consumers,
    )
