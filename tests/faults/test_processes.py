"""Whole processes that are killed or stopped."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.support.nats import until_it
from tests.support.processes import Fusion, endless_story, fusion_up, gone, toy_only

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORY = {
    "model": "fusion-toy",
    "messages": [{"role": "user", "content": "Tell me a story about a cat."}],
    "temperature": 0,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fusion(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Fusion]:
    """One with a model that cannot run, for the tests after which it still does."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{}")
    config = toy_only() + f"  - {{id: broken, path: {folder / 'broken'}, kind: chat}}\n"
    async with fusion_up(folder, config) as running:
        yield running


async def test_a_model_that_cannot_run_is_given_up_and_the_others_serve(fusion: Fusion) -> None:
    async with aiohttp.ClientSession(fusion.running.http_url) as http:
        states = await _states(http)
        async with http.post("/v1/chat/completions", json=STORY) as served:
            assert served.status == 200
        async with http.post("/v1/chat/completions", json=STORY | {"model": "broken"}) as refused:
            error = (await refused.json())["error"]

        assert states == {"fusion-toy": "ready", "broken": "failed"}
        assert (refused.status, error["code"]) == (503, "unavailable")
        assert "failed" in error["message"]


async def _states(http: aiohttp.ClientSession) -> dict[str, str]:
    """Return the states of all models, once none is between two states."""
    states: dict[str, str] = {}

    async def are_settled() -> bool:
        async with http.get("/v1/models") as response:
            states.update({card["id"]: card["state"] for card in (await response.json())["data"]})
        return not {"loading", "restarting"} & set(states.values())

    await until_it(are_settled, 60)
    return states


async def test_a_second_fusion_on_the_same_state_is_refused(fusion: Fusion) -> None:
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli",
        "up", "--state-dir", str(fusion.state), "--port", "0", "--nats-port", "0", "--embedded",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await second.communicate()

    assert second.returncode == 1
    assert b"Another Fusion is running" in errors


async def test_a_killed_chat_actor_ends_its_stream_with_an_error_and_comes_back(fusion: Fusion) -> None:
    async with aiohttp.ClientSession(fusion.running.http_url) as http:
        lines = await _kill_in_mid_stream(fusion, http)
        refusals = await _ask_until_served(http)

        assert b'"error"' in lines
        assert b'"code":"crashed"' in lines
        assert b"[DONE]" not in lines
        assert all(status == 503 and int(retry_after) >= 1 for status, retry_after in refusals)


async def _kill_in_mid_stream(fusion: Fusion, http: aiohttp.ClientSession) -> bytes:
    async with http.post("/v1/chat/completions", json=endless_story() | {"stream": True}) as response:
        assert response.status == 200
        first = await response.content.readuntil(b"\n\n")
        fusion.kill("model/fusion-toy")
        return first + await response.content.read()


async def _ask_until_served(http: aiohttp.ClientSession) -> list[tuple[int, str]]:
    refusals = []
    async with asyncio.timeout(60):
        while True:
            async with http.post("/v1/chat/completions", json=STORY) as response:
                if response.status == 200:
                    return refusals
                refusals.append((response.status, response.headers["Retry-After"]))
            await asyncio.sleep(float(refusals[-1][1]))


async def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    async with fusion_up(tmp_path) as fusion:
        family = fusion.family()

        fusion.process.send_signal(signal.SIGINT)
        alive = await gone(family, 60)

        assert not alive
        assert await fusion.process.wait() == 0


async def test_a_killed_supervisor_leaves_no_process_behind(tmp_path: Path) -> None:
    async with fusion_up(tmp_path) as fusion:
        family = fusion.family()

        os.kill(fusion.process.pid, signal.SIGKILL)
        alive = await gone(family, 60)

        assert not alive


async def test_a_running_stream_is_finished_before_the_processes_stop(tmp_path: Path) -> None:
    async with fusion_up(tmp_path) as fusion, aiohttp.ClientSession(fusion.running.http_url) as http:
        async with http.post("/v1/chat/completions", json=STORY | {"stream": True}) as response:
            await response.content.readuntil(b"\n\n")

            fusion.process.send_signal(signal.SIGTERM)
            rest = await response.content.read()

        assert b'"finish_reason":"stop"' in rest
        assert rest.endswith(b"data: [DONE]\n\n")
        assert await fusion.process.wait() == 0
