"""A job with a real model, run again."""

import asyncio
from pathlib import Path
from typing import Any

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from tests.support import tiny_models
from tests.support.nats import until_it
from tests.support.responses import responding
from tests.support.stack import CHAT_MODEL, Stack, chat_body

INPUT = {"messages": [{"role": "user", "content": "Once upon a time"}], "temperature": 1, "max_tokens": 40}
BODY = {"model_id": CHAT_MODEL, "operation": "chat", "input": INPUT}


async def ended(edge: Stack, path: str, body: Any) -> dict[str, Any]:
    """Post a job, and return it when it has ended."""
    async with edge.http.post(path, json=body) as response:
        job: dict[str, Any] = await response.json()
        assert response.ok, job

    async def is_over() -> bool:
        async with edge.http.get(f"/v1/jobs/{job['job_id']}") as told:
            job.update(await told.json())
        return job["status"] in {"completed", "failed"}

    await until_it(is_over, 60)
    return job


async def test_sampled_text_is_the_same_again_also_when_others_run_beside(nats_url: str, tmp_path: Path) -> None:
    engine = TextEngine(tiny_models.llama(tmp_path / "tiny"), TextLimits(max_batch=8, warmup=False))
    async with responding(nats_url, tmp_path, engine) as edge:
        first = await ended(edge, "/v1/jobs", BODY)
        other = await ended(edge, "/v1/jobs", BODY)
        beside = [asyncio.create_task(_ask(edge, seed)) for seed in range(4)]
        again = await ended(edge, f"/v1/jobs/{first['job_id']}/replay", {})
        await asyncio.gather(*beside)
    await engine.unload()

    assert first["result"]["content"] != other["result"]["content"]
    assert again["result"]["content"] == first["result"]["content"]
    assert again["comparison"] == {"replay_of": first["job_id"], "is_same": True, "differences": []}


async def _ask(edge: Stack, seed: int) -> None:
    for _ in range(3):
        body = chat_body("Once", temperature=1, seed=seed, max_tokens=60)
        async with edge.http.post("/v1/chat/completions", json=body) as response:
            assert response.ok, await response.text()
