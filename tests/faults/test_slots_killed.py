"""Slots, the core and the server that are killed while heavy models load, serve and drain."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from msgspec import Struct

from tests.support.heavy import MODELS, Heavy, heavy_up
from tests.support.nats import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Scene(Struct, frozen=True):
    """A Fusion of two slots, which have `first` and `second`; nothing runs."""

    fusion: Heavy
    first: str
    second: str
    third: str

    async def is_whole(self) -> None:
        """Check that no place and no memory is lost: two models are loaded at once, and a third takes one's place."""
        for model in (self.first, self.second, self.third):
            status, answer = await self.fusion.ask(model)
            assert (status, answer["model"]) == (200, model)
            await self.fusion.until_idle()  # What each slot says of its end may overtake what another said before.
        await self.fusion.until_states({self.first: "unloaded", self.second: "ready", self.third: "ready"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fusion(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Heavy]:
    async with heavy_up(tmp_path_factory.mktemp("killed")) as running:
        assert {await running.load(model) for model in MODELS} == {200}
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def scene(fusion: Heavy) -> Scene:
    await fusion.until_idle()
    (third,) = [model for model, state in (await fusion.states()).items() if state == "unloaded"]
    fusion.events.clear()
    return Scene(fusion, *(model for model in MODELS if model != third), third)


async def test_slot_killed_while_serving_ends_its_streams_with_an_error_and_no_others(scene: Scene) -> None:
    fusion = scene.fusion
    async with fusion.story(scene.first) as one, fusion.story(scene.second) as two:
        os.kill(await fusion.pid_of(scene.first), signal.SIGKILL)
        error = await one.error()
        await fusion.until_states({scene.first: "unloaded", scene.second: "ready", scene.third: "unloaded"})
        status, _ = await fusion.ask(scene.first)
        await two.more(20)

    assert (error["code"], status) == ("crashed", 200)
    await fusion.until_lost(scene.first)
    await scene.is_whole()


async def test_slot_killed_while_loading_is_followed_by_another_and_nobody_hears_of_it(scene: Scene) -> None:
    fusion = scene.fusion
    await fusion.unload(scene.first)
    async with fusion.story(scene.second) as two:
        await until(lambda: not fusion.says(scene.first))
        asked = asyncio.create_task(fusion.ask(scene.first))
        slot = await fusion.pid_of(scene.first)
        os.kill(slot, signal.SIGSTOP)  # It would have loaded before anybody has looked.
        await fusion.until_states({scene.first: "loading", scene.second: "ready"})
        os.kill(slot, signal.SIGKILL)
        status, answer = await asked
        await two.more(20)

    assert (status, answer["model"]) == (200, scene.first)
    await fusion.until_lost(scene.first)
    await scene.is_whole()


async def test_slot_killed_while_draining_ends_what_it_was_to_finish(scene: Scene) -> None:
    fusion = scene.fusion
    async with fusion.story(scene.first) as one, fusion.story(scene.second) as two:
        unloaded = asyncio.create_task(fusion.unload(scene.first))
        await fusion.until_states({scene.first: "draining", scene.second: "ready"})
        await one.more(20)
        os.kill(await fusion.pid_of(scene.first), signal.SIGKILL)
        error = await one.error()
        status = await unloaded
        await two.more(20)

    assert (error["code"], status) == ("crashed", 200)
    await fusion.until_lost(scene.first)
    await scene.is_whole()


async def test_core_killed_leaves_streams_alone_and_adopts_the_slots(scene: Scene) -> None:
    fusion = scene.fusion
    async with fusion.story(scene.second) as two:
        async with fusion.story(scene.first) as one:
            slots, core = fusion.slot_pids(), fusion.fusion.running.processes["core"]
            fusion.fusion.kill("core")
            await until(lambda: fusion.fusion.running.processes.get("core", core) != core)
            await fusion.until_states({scene.first: "ready", scene.second: "ready"})
            leases = await fusion.leases()
            asked = asyncio.create_task(fusion.ask_again(scene.third))
            await fusion.until_states({scene.first: "ready", scene.second: "ready", scene.third: "waiting"})
            await asyncio.gather(one.more(50), two.more(50))
            assert not asked.done()
        status, _ = await asked
        await two.more(20)

    # The supervisor notes a process only when the next one stands by.
    await until(lambda: len(slots & fusion.slot_pids()) == 1)
    assert leases == {scene.first: 1, scene.second: 1, scene.third: 0}
    assert status == 200


async def test_server_killed_leaves_models_loaded_and_no_lease_behind(scene: Scene) -> None:
    fusion = scene.fusion
    async with fusion.story(scene.first) as one, fusion.story(scene.second) as two:
        slots = fusion.slot_pids()
        fusion.fusion.kill("nats-server")
        errors = await asyncio.gather(one.error(), two.error())
    await fusion.until_states({scene.first: "ready", scene.second: "ready"})
    await fusion.until_idle()

    assert {error["code"] for error in errors} <= {"stream_broken", "crashed"}
    assert fusion.slot_pids() == slots
    await scene.is_whole()


async def test_lease_whose_release_was_lost_is_not_held_for_ever(scene: Scene) -> None:
    fusion = scene.fusion
    async with fusion.story(scene.first) as story:
        core = fusion.fusion.running.processes["core"]
        await until(lambda: fusion.says(scene.first, working=1))
        os.kill(core, signal.SIGSTOP)
        fusion.fusion.kill("nats-server")
        error = await story.error()
        await until(lambda: fusion.says(scene.first, working=0))
        os.kill(core, signal.SIGCONT)

    assert error["code"] == "stream_broken"
    await fusion.until_idle()


async def test_request_whose_slot_dies_before_its_first_word_is_told_so(scene: Scene) -> None:
    fusion = scene.fusion
    core = fusion.fusion.running.processes["core"]
    await fusion.unload(scene.first)
    await until(lambda: not fusion.says(scene.first))
    asked = asyncio.create_task(fusion.ask(scene.first))
    slot = await fusion.pid_of(scene.first)
    os.kill(slot, signal.SIGSTOP)  # It would have loaded before anybody has looked.
    await fusion.until_states({scene.first: "loading"})
    os.kill(core, signal.SIGSTOP)
    os.kill(slot, signal.SIGCONT)
    await until(lambda: fusion.says(scene.first, state="ready"))
    os.kill(slot, signal.SIGSTOP)
    os.kill(core, signal.SIGCONT)
    await fusion.until_leases({scene.first: 1})
    os.kill(slot, signal.SIGKILL)
    async with asyncio.timeout(60):
        status, answer = await asked

    assert (status, answer["error"]["code"]) == (503, "crashed")
    await scene.is_whole()
