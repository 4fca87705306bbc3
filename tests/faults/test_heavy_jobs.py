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
from tests.support.heavy import MODELS, NEVER_ENDING, ONE, THREE, TWO, Heavy, config, entry, heavy, made
from tests.support.nats import until_it
from tests.support.processes import fusion_up

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOBS = 30


HUGE, BROKEN, MISSING = "org/huge", "org/broken", "org/missing"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fusion(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Heavy]:
    folder = tmp_path_factory.mktemp("jobs")
    broken = made(folder, BROKEN)
    (broken / "model.safetensors").write_bytes(b"no tensors")
    unloadable = entry(HUGE, made(folder, ONE), f"memory_bytes: {10**15}") + entry(BROKEN, broken)
    models = config(folder, "slots: 2, min_residency: 1") + unloadable + entry(MISSING, folder / "nowhere")
    async with fusion_up(folder, models) as up, heavy(up) as running:
        yield running


async def submit(fusion: Heavy, model: str, max_tokens: int = 4) -> str:
    """Submit a job and return its id."""
    messages = [{"role": "user", "content": "Once"}]
    asked = {"messages": messages, "max_tokens": max_tokens, "logit_bias": NEVER_ENDING}
    job = {"model_id": model, "operation": "chat", "input": asked}
    async with fusion.http.post("/v1/jobs", json=job) as response:
        assert response.ok, await response.text()
        return str((await response.json())["job_id"])


async def reason(fusion: Heavy, job_id: str) -> tuple[str | None, str]:
    """Wait until the job has ended, and return why, and what is told of it."""
    await ends(fusion, job_id)
    async with fusion.http.get(f"/v1/jobs/{job_id}") as response:
        job = await response.json()
    return job.get("reason"), job.get("error", "")


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


@pytest.mark.parametrize(("model", "why"), [(HUGE, "needs"), (BROKEN, "safetensors"), (MISSING, "no folder")])
async def test_jobs_of_a_model_that_cannot_be_loaded_are_ended(fusion: Heavy, model: str, why: str) -> None:
    jobs = [await submit(fusion, model) for _ in range(3)]

    ended = [await reason(fusion, job_id) for job_id in jobs]

    assert {name for name, _ in ended} == {"model_unavailable"}
    assert all(why in told for _, told in ended), ended
