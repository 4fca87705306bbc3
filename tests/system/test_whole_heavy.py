"""Heavy models in real slots: loaded when they are asked or ordered, over HTTP and with the clients that users have."""

import time
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from ollama import AsyncClient
from openai import AsyncOpenAI, ConflictError

from tests.support.health import health_of
from tests.support.nats import until_it
from tests.support.ollama_client import user
from tests.support.processes import Fusion, fusion_up
from tests.support.tiny_rerankers import write_reranker

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE_SLOT = """
actors: {slots: 1, min_residency: 0}
models:
  - {id: fusion-toy, path: "embedded:fusion-toy", kind: chat}
  - {id: org/first, path: "embedded:fusion-toy", kind: chat, tier: 2, aliases: [first]}
  - {id: org/second, path: "embedded:fusion-toy", kind: chat, tier: 2}
  - {id: org/judge, path: JUDGE, kind: rerank, tier: 2}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fusion(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Fusion]:
    folder = tmp_path_factory.mktemp("heavy")
    judge = write_reranker(folder / "judge", "qwen3")
    async with fusion_up(folder, ONE_SLOT.replace("JUDGE", str(judge))) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(fusion: Fusion) -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{fusion.running.http_url}/v1", api_key="unused", max_retries=0) as openai:
        await openai.delete("/models/org/first/unload", cast_to=object)
        await openai.delete("/models/org/second/unload", cast_to=object)
        await openai.delete("/models/org/judge/unload", cast_to=object)
        yield openai


async def told(client: AsyncOpenAI, model: str) -> dict[str, Any]:
    """Return what the catalogue says of a model beside OpenAI's fields."""
    return (await client.models.retrieve(model)).model_extra or {}


async def is_(client: AsyncOpenAI, model: str, state: str) -> bool:
    return bool((await told(client, model))["state"] == state)


async def is_idle(client: AsyncOpenAI, model: str) -> bool:
    return (await told(client, model))["expires_at"] is not None


async def test_model_is_loaded_when_it_is_asked_and_stays_as_long_as_was_said(
    client: AsyncOpenAI, fusion: Fusion
) -> None:
    body = {"model": "first", "messages": user("What is NATS?"), "temperature": 0, "stream": True, "ttl": 1000}
    before = await told(client, "first")
    async with aiohttp.ClientSession(fusion.running.http_url) as http:
        ready, _ = await health_of(http, "/readyz")
        async with http.post("/v1/chat/completions", json=body) as response:
            lines = (await response.read()).decode().splitlines()
    await until_it(lambda: is_idle(client, "first"))
    after = await told(client, "first")

    assert (ready, before["state"], before["expires_at"]) == (200, "unloaded", None)
    assert lines[0].startswith((": loading ", ": queued "))
    assert lines[-2] == "data: [DONE]"
    assert {'"model":"org/first"' in line for line in lines if line.startswith("data: {")} == {True}
    assert (after["state"], after["leases"]) == ("ready", 0)
    assert after["memory_bytes"] > 0
    assert 500 < after["expires_at"] - time.time() <= 1000


async def test_model_goes_after_a_request_that_keeps_it_no_longer(client: AsyncOpenAI, fusion: Fusion) -> None:
    async with AsyncClient(host=fusion.running.http_url) as ollama:
        answer = await ollama.chat("first", user("What is NATS?"), keep_alive=0, options={"num_predict": 2})

    assert (answer.model, answer.done_reason) == ("first", "length")
    await until_it(lambda: is_(client, "first", "unloaded"))


async def test_ollama_loads_and_unloads_by_asking_nothing(client: AsyncOpenAI, fusion: Fusion) -> None:
    async with AsyncClient(host=fusion.running.http_url) as ollama:
        loaded = await ollama.generate("first", keep_alive="30m")
        running = (await ollama.ps()).models
        unloaded = await ollama.generate("first", keep_alive=0)

    assert (loaded.done_reason, unloaded.done_reason) == ("load", "unload")
    assert [each.name for each in running] == ["fusion-toy", "org/first"]
    assert running[1].size_vram
    assert running[1].expires_at is not None
    assert 900 < running[1].expires_at.timestamp() - time.time() <= 1800
    assert await is_(client, "first", "unloaded")


async def test_orders_may_be_given_twice_and_warm_models_stay(client: AsyncOpenAI) -> None:
    loads: list[Any] = [await client.post("/models/load", body={"model_id": "first"}, cast_to=object) for _ in range(2)]
    unloads: list[Any] = [await client.delete("/models/org/first/unload", cast_to=object) for _ in range(2)]
    with pytest.raises(ConflictError):
        await client.delete("/models/fusion-toy/unload", cast_to=object)
    with pytest.raises(ConflictError):
        await client.models.delete("org/first")

    assert [(each["model_id"], each["status"]) for each in loads] == [("org/first", "loaded")] * 2
    assert all(each["vram_usage_gb"] > 0 for each in loads)
    assert [each["status"] for each in unloads] == ["unloaded"] * 2
    assert unloads[0]["vram_freed_gb"] > unloads[1]["vram_freed_gb"] == 0


async def test_loading_goes_on_when_its_client_leaves(client: AsyncOpenAI, fusion: Fusion) -> None:
    async with aiohttp.ClientSession(fusion.running.http_url) as http:
        async with http.post("/v1/models/org/second/load", json={"stream": True}) as response:
            first = await response.content.readuntil(b"\n\n")
            response.close()

    assert b'"status":"loaded"' not in first
    await until_it(lambda: is_(client, "org/second", "ready"))


async def test_tokens_of_a_model_that_is_not_loaded_are_counted(client: AsyncOpenAI) -> None:
    counted: Any = await client.post("/tokenize", body={"model": "first", "prompt": "NATS is"}, cast_to=object)

    assert counted["count"] == len(counted["tokens"]) > 0


async def test_reranker_is_loaded_when_it_is_asked_at_once_and_as_a_job(client: AsyncOpenAI, fusion: Fusion) -> None:
    asked = {"query": "old bird", "documents": ["a river", "an old bird"]}
    async with aiohttp.ClientSession(fusion.running.http_url) as http:
        async with http.post("/v1/rerank", json=asked | {"model": "org/judge"}) as response:
            at_once = await response.json()
        order = {"model_id": "org/judge", "operation": "rerank", "input": asked}
        async with http.post("/v1/jobs", json=order) as response:
            path = f"/v1/jobs/{(await response.json())['job_id']}"

        async def is_done() -> bool:
            async with http.get(path) as response:
                return bool((await response.json())["status"] == "completed")

        await until_it(is_done)
        async with http.get(path) as response:
            later = (await response.json())["result"]

    assert (await told(client, "org/judge"))["capabilities"] == ["rerank"]
    assert at_once["model"] == "org/judge"
    assert {each["index"] for each in at_once["results"]} == {0, 1}
    assert later == {name: at_once[name] for name in ("results", "usage")}
