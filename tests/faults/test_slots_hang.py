"""A slot that hangs, a model that no process survives, and a catalogue that changes under running work."""

import asyncio
import os
import signal
from pathlib import Path

import psutil

from tests.support.heavy import ONE, THREE, TWO, entry, heavy_up, made
from tests.support.processes import gone


async def test_slot_that_hangs_while_draining_is_ended_and_its_model_loads_anew(tmp_path: Path) -> None:
    async with heavy_up(tmp_path, "slots: 2, unload_seconds: 1") as fusion:
        async with fusion.story(TWO) as two:
            async with fusion.story(ONE) as one:
                slot = psutil.Process(await fusion.pid_of(ONE))
                unloaded = asyncio.create_task(fusion.unload(ONE))
                await fusion.until_states({ONE: "draining"})
                os.kill(slot.pid, signal.SIGSTOP)
                error = await one.error()
            alive = await gone([slot], 60)
            status, answer = await fusion.ask(ONE)
            await two.more(20)

        assert error["code"] == "crashed"
        assert await unloaded == 200
        assert not alive
        assert (status, answer["model"]) == (200, ONE)


async def test_model_that_ends_every_process_is_refused_and_its_slot_goes_on(tmp_path: Path) -> None:
    async with heavy_up(tmp_path, "slots: 1, min_residency: 0") as fusion:
        refusals, pid = [], 0
        for _ in range(2):
            asked = asyncio.create_task(fusion.ask(ONE))
            for _ in range(3):
                pid = await fusion.pid_of(ONE, other_than=pid)
                os.kill(pid, signal.SIGKILL)
            status, answer = await asked
            refusals.append((status, answer["error"]["code"]))
        served, _ = await fusion.ask(TWO)

    assert refusals == [(503, "crashed")] * 2
    assert served == 200


async def test_catalogue_read_again_adds_models_and_leaves_what_runs_alone(tmp_path: Path) -> None:
    async with heavy_up(tmp_path) as fusion:
        file = tmp_path / "fusion.yaml"
        changed = file.read_text().replace(
            entry(ONE, made(tmp_path, ONE)), entry(ONE, made(tmp_path, ONE), "context_length: 300")
        )
        async with fusion.story(ONE) as story:
            file.write_text(changed + entry("org/four", made(tmp_path, THREE)))
            fusion.fusion.process.send_signal(signal.SIGHUP)
            await fusion.until_states({"org/four": "unloaded"})
            status, answer = await fusion.ask("org/four")
            await story.more(400)
            before = (await fusion.cards())[ONE]["context_length"]
        await fusion.unload(ONE)
        refused, _ = await fusion.ask(ONE, prompt="word " * 400)
        after = (await fusion.cards())[ONE]["context_length"]

    assert (status, answer["model"]) == (200, "org/four")
    assert (before, after, refused) == (100_000, 300, 400)
