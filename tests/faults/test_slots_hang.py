"""A slot that hangs, a model that no process survives, and a catalogue that changes under running work."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.support import tiny_models
from tests.support.heavy import ONE, THREE, TWO, Heavy, entry, heavy_up, made
from tests.support.processes import gone

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hang")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fusion(folder: Path) -> AsyncGenerator[Heavy]:
    async with heavy_up(folder, "slots: 2, min_residency: 0, unload_seconds: 1") as running:
        yield running


async def test_catalogue_read_again_adds_models_and_leaves_what_runs_alone(fusion: Heavy, folder: Path) -> None:
    file, before = folder / "fusion.yaml", entry(ONE, made(folder, ONE))
    changed = file.read_text().replace(before, entry(ONE, made(folder, ONE), "context_length: 300"))
    async with fusion.story(ONE) as story:
        file.write_text(changed + entry("org/four", made(folder, THREE)))
        fusion.fusion.process.send_signal(signal.SIGHUP)
        await fusion.until_states({"org/four": "unloaded"})
        status, answer = await fusion.ask("org/four")
        await story.more(400)
        length = (await fusion.cards())[ONE]["context_length"]
    await fusion.unload(ONE)
    refused, _ = await fusion.ask(ONE, prompt="word " * 400)

    assert (status, answer.get("model")) == (200, "org/four"), answer
    assert (length, (await fusion.cards())[ONE]["context_length"]) == (100_000, 300)
    assert refused == 400


async def test_model_that_ends_every_process_is_refused_and_its_slot_goes_on(fusion: Heavy, folder: Path) -> None:
    refusals, pid = [], 0
    # It loads for seconds, in which its process is ended.
    deep = tiny_models.llama(folder / "deep", layers=200)
    file = folder / "fusion.yaml"
    file.write_text(file.read_text() + entry("org/deep", deep))
    fusion.fusion.process.send_signal(signal.SIGHUP)
    await fusion.until_states({"org/deep": "unloaded"})
    async with fusion.story(TWO) as two:
        for _ in range(2):
            asked = asyncio.create_task(fusion.ask("org/deep"))
            for _ in range(3):
                pid = await fusion.pid_of("org/deep", other_than=pid)
                os.kill(pid, signal.SIGKILL)
            status, answer = await asked
            card = (await fusion.cards())["org/deep"]
            refusals.append((status, answer["error"]["code"], card["state"], card["error"]))
        served, _ = await fusion.ask(THREE)
        await two.more(20)

    why = "The process of org/deep ended 3 times while it was loading."
    assert refusals == [(503, "crashed", "failed", why)] * 2
    assert served == 200


async def test_slot_that_hangs_while_draining_is_ended_and_its_model_loads_anew(fusion: Heavy) -> None:
    async with fusion.story(TWO) as two:
        async with fusion.story(THREE) as three:
            slot = psutil.Process(await fusion.pid_of(THREE))
            unloaded = asyncio.create_task(fusion.unload(THREE))
            await fusion.until_states({THREE: "draining"})
            os.kill(slot.pid, signal.SIGSTOP)
            error = await three.error()
        alive = await gone([slot], 60)
        status, answer = await fusion.ask(THREE)
        await two.more(20)

    assert error["code"] == "crashed"
    assert await unloaded == 200
    assert not alive
    assert (status, answer["model"]) == (200, THREE)
