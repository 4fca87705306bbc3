"""A job that is scheduled while those who know of it are killed."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp

from bus.client import Bus
from bus.config import BusConfig
from bus.events import EventLog
from eventlog.events import JobQueued
from tests.support.nats import until_it
from tests.support.processes import fusion_up

STORY = {
    "model_id": "fusion-toy",
    "operation": "chat",
    "input": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4},
}


async def test_scheduled_job_runs_once_after_the_server_and_the_core_were_killed(tmp_path: Path) -> None:
    async with fusion_up(tmp_path) as fusion, aiohttp.ClientSession(fusion.running.http_url) as http:
        run_at = datetime.now(UTC) + timedelta(seconds=10)
        async with http.post("/v1/jobs", json=STORY | {"run_at": run_at.isoformat()}) as response:
            job_id = (await response.json())["job_id"]
        for victim in ("nats-server", "core"):
            await fusion.kill_once_there(victim)

        async def is_done() -> bool:
            with suppress(aiohttp.ClientError):
                async with http.get(f"/v1/jobs/{job_id}") as told:
                    return bool((await told.json()).get("status") == "completed")
            return False

        await until_it(is_done, 120)
        async with Bus.connect("test", BusConfig(url=fusion.running.nats_url)) as bus:
            story = [item.event for item in await EventLog(bus).read_job(job_id)]

    kinds = [type(event).__name__ for event in story]
    assert kinds[:3] == ["JobScheduled", "JobQueued", "JobStarted"]
    assert [kinds.count(kind) for kind in ("JobQueued", "JobCompleted")] == [1, 1]
    assert isinstance(story[1], JobQueued)
    assert story[1].at >= run_at
