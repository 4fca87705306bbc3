"""A webhook whose sender and whose queue are killed between two attempts."""

from pathlib import Path
from typing import Any

import aiohttp

from tests.support.nats import until, until_it
from tests.support.processes import fusion_up, toy_only
from tests.support.webhooks import receiving

CONFIG = toy_only("webhook_networks: [127.0.0.0/8], webhook_timeout: 20")
JOB = {
    "model_id": "fusion-toy",
    "operation": "chat",
    "input": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2},
}


async def test_next_attempt_comes_although_core_and_server_were_killed(tmp_path: Path) -> None:
    async with (
        receiving((503, {"Retry-After": "12"}), 200) as receiver,
        fusion_up(tmp_path, CONFIG) as fusion,
        aiohttp.ClientSession(fusion.running.http_url) as http,
    ):
        webhook = await _ask(http, "POST", "", json={"url": receiver.url, "events": ["job.completed"]})
        await (await http.post("/api/mcp/jobs", json=JOB)).read()

        async def has_failed() -> bool:
            told = await _ask(http, "GET", f"/{webhook['webhook_id']}/deliveries")
            return [each["attempts"] for each in told["deliveries"]] == [1]

        await until_it(has_failed, 60)
        fusion.kill("core")
        fusion.kill("nats-server")
        await until(lambda: len(receiver.received) == 2, 90)

    first, second = receiver.verified(webhook["secret"])
    assert first == second
    assert len({each.headers["webhook-id"] for each in receiver.received}) == 1


async def _ask(http: aiohttp.ClientSession, method: str, path: str, **options: Any) -> Any:
    async with http.request(method, f"/api/mcp/webhook{path}", **options) as response:
        assert response.ok, await response.text()
        return await response.json()
