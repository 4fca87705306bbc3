"""What is left when models have been loaded and unloaded over and over: nothing."""

import asyncio
from pathlib import Path

from msgspec import structs

from bench.cycles import cycle, kept, rested
from tests.support.heavy import ONE, TWO, heavy_up
from tests.support.nats import until_it
from tests.support.ports import own_port

CYCLES = 6

# A leaked model, or process, is of 80 MB or more; what the others keep of so many cycles is of a few.
TOLERANCE_MB = 40


async def test_cycles_of_loading_and_unloading_leave_nothing_behind(tmp_path: Path) -> None:
    config, port = tmp_path / "fusion.yaml", own_port()

    async def has_consumers() -> bool:
        return (await kept(port))["consumers"] == 9

    async with heavy_up(tmp_path, more=f"nats: {{monitor_port: {port}}}") as fusion, asyncio.timeout(240):
        await asyncio.gather(fusion.load(ONE), fusion.load(TWO))
        # What takes the jobs of a model, or of the rag actor, one for each priority, stays when it is unloaded.
        await until_it(has_consumers)
        await asyncio.gather(fusion.unload(ONE), fusion.unload(TWO))
        before = await rested(config, port, own=1)
        await cycle(fusion.http, [ONE, TWO], CYCLES)
        after = await rested(config, port, own=1)
        states = await fusion.states()

    assert set(states.values()) == {"unloaded"}
    assert abs(after.rss_mb - before.rss_mb) < TOLERANCE_MB
    assert structs.replace(after, rss_mb=0.0) == structs.replace(before, rss_mb=0.0)
