"""What is left when models have been loaded and unloaded over and over: nothing."""

from pathlib import Path

import psutil

from bench.cycles import cycle, footprint, rested
from bus.server import free_port
from tests.support.heavy import ONE, TWO, heavy_up

CYCLES = 8

# A leaked model, or process, is of 80 MB or more; what the others keep of eight cycles is of a few.
TOLERANCE_MB = 40


async def test_cycles_of_loading_and_unloading_leave_nothing_behind(tmp_path: Path) -> None:
    port = free_port()
    async with heavy_up(tmp_path, more=f"nats: {{monitor_port: {port}}}") as fusion:
        root = psutil.Process(fusion.fusion.process.pid)
        await cycle(fusion.http, [ONE, TWO], 2)
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
