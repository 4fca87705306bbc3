"""The history is a projection: it can be thrown away."""

import asyncio
import sys
from pathlib import Path

import aiohttp

from tests.support.nats import until_it
from tests.support.processes import Fusion, fusion_up

JOB = {
    "model_id": "fusion-toy",
    "operation": "chat",
    "input": {"messages": [{"role": "user", "content": "Hello"}]},
    "metadata": {"user": "someone"},
}


async def test_a_deleted_history_comes_back_identical(tmp_path: Path) -> None:
    async with fusion_up(tmp_path) as fusion, aiohttp.ClientSession(fusion.running.http_url) as http:
        for _ in range(5):
            await (await http.post("/api/mcp/jobs", json=JOB)).read()
        before = await _completed(http, 5)

        (fusion.state / "history.duckdb").unlink()
        printed = await _replay(fusion)
        after = await _completed(http, 5)

        assert "5 jobs" in printed
        assert after == before
        assert (fusion.state / "history.duckdb").exists()


async def _completed(http: aiohttp.ClientSession, count: int) -> dict[str, object]:
    page: dict[str, object] = {}

    async def are_there() -> bool:
        async with http.get("/api/mcp/jobs", params={"status": "completed"}) as response:
            page.update(await response.json())
        return page["total"] == count

    await until_it(are_there)
    return page


async def _replay(fusion: Fusion) -> str:
    replay = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "replay", "--state-dir", str(fusion.state), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await replay.communicate()
    return printed.decode()
