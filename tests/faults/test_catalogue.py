"""Warm models that come and go with the catalogue, while they start and while they answer."""

from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from tests.support.heavy import Heavy, heavy_up, made
from tests.support.nats import until
from tests.support.processes import gone

WARM = "warm"


@pytest.fixture
async def fusion(tmp_path: Path) -> AsyncGenerator[Heavy]:
    async with heavy_up(tmp_path, "slots: 0") as running:
        yield running


async def reload(fusion: Heavy, folder: Path, *, with_warm: bool) -> None:
    """Have the catalogue read again, with the warm model or without."""
    file, line = folder / "fusion.yaml", f"  - {{id: {WARM}, path: {made(folder, WARM)}, kind: chat}}\n"
    file.write_text(file.read_text().replace(line, "") + (line if with_warm else ""))
    async with fusion.http.post("/v1/models/reload") as response:
        assert response.status == 200, await response.text()


async def pid(fusion: Heavy, *, other_than: int = 0) -> int:
    """Return the process id of the warm model, once it has been started."""
    await until(lambda: fusion.fusion.running.processes.get(f"model/{WARM}", other_than) != other_than)
    return fusion.fusion.running.processes[f"model/{WARM}"]


async def test_warm_model_that_is_taken_out_while_it_starts_does_not_stay(fusion: Heavy, tmp_path: Path) -> None:
    await reload(fusion, tmp_path, with_warm=True)
    starting = psutil.Process(await pid(fusion))
    await until(starting.net_connections)  # It has read the catalogue, and hears no order before it has imported mlx.
    starting.suspend()

    await reload(fusion, tmp_path, with_warm=False)
    starting.resume()

    assert await gone([starting], 60) == []


async def test_warm_model_that_comes_back_before_it_has_ended_is_started_again(fusion: Heavy, tmp_path: Path) -> None:
    await reload(fusion, tmp_path, with_warm=True)
    await fusion.until_states({WARM: "ready"})
    first = await pid(fusion)
    async with fusion.story(WARM) as story:
        await reload(fusion, tmp_path, with_warm=False)
        await until(lambda: [beat for beat in fusion.bus.presence.instances if beat.state == "draining"])
        await reload(fusion, tmp_path, with_warm=True)
        await story.more(20)

    second = await pid(fusion, other_than=first)
    await until(lambda: not psutil.pid_exists(first))
    await fusion.until_states({WARM: "ready"})
    status, answer = await fusion.ask_again(WARM)

    assert status == 200, answer
    assert psutil.pid_exists(second)
