"""Durable jobs for heavy models: they load what they need, end once, and are not in each other's way."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from functools import partial

import pytest
import pytest_asyncio

from bus.events import EventLog
from eventlog.events import JobCancelled, JobCompleted, JobFailed, ModelDraining
from eventlog.job import fold
from tests.support.heavy import MODELS, NEVER_ENDING, ONE, THREE, TWO, Heavy, heavy_up
from tests.support.nats import until_it

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOBS = 30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fusion(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Heavy]:
    async with heavy_up(tmp_path_factory.mktemp("jobs"), "slots: 2, min_residency: 1") as running:
        yield running


async def submit(fusion: Heavy, model: str, max_tokens: int = 4) -> str:
    """Submit a job and return its id."""
    messages = [{"role": "user", "content": "Once"}]
    asked = {"messages": messages, "max_tokens": max_tokens, "logit_bias": NEVER_ENDING}
    job = {"model_id": model, "operation": "chat", "input": asked}
    async with fusion.http.post("/v1/jobs", json=job) as response:
        assert response.ok, await response.text()
        return str((await response.json())["job_id"])


async def ends(fusion: Heavy, job_id: str) -> list[str]:
    """Wait until the job has ended, and return its ends as the log has them."""
    log = EventLog(fusion.bus)

    async def has_ended() -> bool:
        job = fold(item.event for item in await log.read_job(job_id))
        return job is not None and job.is_final

    await until_it(has_ended, 90)
    events = [item.event for item in await log.read_job(job_id)]
    return [type(event).__name__ for event in events if isinstance(event, JobCompleted | JobFailed | JobCancelled)]


async def test_job_has_its_model_loaded(fusion: Heavy) -> None:
    before = await fusion.states()

    ended = await ends(fusion, await submit(fusion, ONE))

    assert before[ONE] == "unloaded"
    assert ended == ["JobCompleted"]


async def test_thirty_jobs_over_three_models_end_once_each(fusion: Heavy) -> None:
    jobs = [await submit(fusion, MODELS[number % 3]) for number in range(JOBS)]

    ended = await asyncio.gather(*map(partial(ends, fusion), jobs))

    assert Counter(map(tuple, ended)) == {("JobCompleted",): JOBS}


async def test_job_is_finished_before_its_model_gives_way(fusion: Heavy) -> None:
    await asyncio.gather(fusion.unload(ONE), fusion.load(TWO), fusion.load(THREE))
    async with fusion.story(TWO) as story:
        job = await submit(fusion, THREE, max_tokens=1500)
        await fusion.until_leases({THREE: 1})
        status, answer = await fusion.ask(ONE)
        ended = await ends(fusion, job)
        await story.more(10)
        attempts = fold(item.event for item in await EventLog(fusion.bus).read_job(job))

    assert status == 200, answer
    assert attempts is not None
    assert (ended, attempts.attempts) == (["JobCompleted"], 1)
    assert fusion.recorded(ModelDraining, THREE)
