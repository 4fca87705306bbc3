"""Jobs under way while everything around them is killed."""

import asyncio
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiohttp

from bus.client import Bus
from bus.config import BusConfig
from bus.events import EventLog
from bus.messages.history import HistoryQuery
from bus.streams import stream_last_seq
from bus.subjects import LIST_HISTORY
from eventlog.events import JobCancelled, JobCompleted, JobFailed
from eventlog.job import fold
from tests.support.nats import until_it
from tests.support.processes import Fusion, fusion_up, toy_only

JOBS = 56
CONFIG = toy_only("job_ack_wait: 3, job_max_attempts: 50")
STORY = {
    "model_id": "fusion-toy",
    "operation": "chat",
    "input": {"messages": [{"role": "user", "content": "Tell me a story about a dog."}], "max_tokens": 60},
}
VICTIMS = ("model/fusion-toy", "nats-server", "historian", "edge", "core", "nats-server", "model/fusion-toy")


async def test_every_accepted_job_ends_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    async with fusion_up(tmp_path, CONFIG) as fusion:
        accepted: list[str] = []
        for victim in VICTIMS:
            accepted += await _submit(fusion, JOBS // len(VICTIMS))
            await fusion.kill_once_there(victim)

        async with Bus.connect("test", BusConfig(url=fusion.running.nats_url)) as bus:
            ends = await _ends(bus, accepted)
            jobs = [fold(item.event for item in await EventLog(bus).read_job(job_id)) for job_id in accepted]
            history = await _history(bus, accepted)

        assert len(accepted) == JOBS
        assert Counter(ends) == dict.fromkeys(accepted, 1)
        assert {job.status for job in jobs if job} == {"completed"}
        assert history == {job.job_id: (job.status, job.attempts) for job in jobs if job}


async def _submit(fusion: Fusion, count: int) -> list[str]:
    """Submit until that many jobs were accepted; one whose answer was lost may be there beside them."""
    accepted: list[str] = []
    async with aiohttp.ClientSession(fusion.running.http_url) as http:

        async def are_accepted() -> bool:
            with suppress(aiohttp.ClientError):
                async with http.post("/api/mcp/jobs", json=STORY) as response:
                    if response.ok:
                        accepted.append((await response.json())["job_id"])
            return len(accepted) >= count

        await until_it(are_accepted, 60)
    return accepted


async def _ends(bus: Bus, accepted: list[str]) -> list[str]:
    """Wait until every accepted job has ended, and return the job of each terminal event in the log."""
    log = EventLog(bus)

    async def has_ended(job_id: str) -> bool:
        job = fold(item.event for item in await log.read_job(job_id))
        return job is not None and job.is_final

    async with asyncio.timeout(120):
        for job_id in accepted:
            await until_it(partial(has_ended, job_id), 120)
    events = [item.event for job_id in accepted for item in await log.read_job(job_id)]
    return [event.job_id for event in events if isinstance(event, JobCompleted | JobFailed | JobCancelled)]


async def _history(bus: Bus, accepted: list[str]) -> dict[str, tuple[str, int]]:
    """Return status and attempts of the accepted jobs as the history has them, once it has caught up."""
    goal = await stream_last_seq(bus.nc, "EVENTS")
    page = await bus.ask(LIST_HISTORY(), HistoryQuery(limit=1000, at_least=goal), patience=20)
    return {row.job_id: (row.status, row.attempts) for row in page.jobs if row.job_id in accepted}
