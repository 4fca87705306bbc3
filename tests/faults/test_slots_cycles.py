"""What is left when models have been loaded and unloaded over and over: nothing."""

import asyncio
from pathlib import Path

from msgspec import structs

from bench.cycles import cycle, footprint, rested
from bus.server import free_port
from tests.support.heavy import ONE, TWO, heavy_up
from tests.support.nats import until_it

CYCLES = 6

# A leaked model, or process, is of 80 MB or more; what the others keep of so many cycles is of a few.
TOLERANCE_MB = 40


async def have_consumers(config: Path, port: int) -> bool:
    """Whether both models have what their jobs are taken by, which stays when they are unloaded: one per priority."""
    return (await footprint(config, port)).consumers == 6


async def test_cycles_of_loading_and_unloading_leave_nothing_behind(tmp_path: Path) -> None:
    config, port = tmp_path / "fusion.yaml", free_port()
    async with heavy_up(tmp_path, more=f"nats: {{monitor_port: {port}}}") as fusion:
        await asyncio.gather(fusion.load(ONE), fusion.load(TWO))
        await until_it(lambda: have_consumers(config, port))
        await asyncio.gather(fusion.unload(ONE), fusion.unload(TWO))
        await rested(fusion.bus, 2)
        before = await footprint(config, port)
        await cycle(fusion.http, [ONE, TWO], CYCLES)
        await rested(fusion.bus, 2)
        after = await footprint(config, port)
        states = await fusion.states()

    assert set(states.values()) == {"unloaded"}
    assert abs(after.rss_mb - before.rss_mb) < TOLERANCE_MB
    assert structs.replace(after, rss_mb=0.0) == structs.replace(before, rss_mb=0.0)
