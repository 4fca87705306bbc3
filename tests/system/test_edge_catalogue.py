"""Models, health and the queue."""

from pathlib import Path

import pytest
from msgspec import convert
from openai import NotFoundError

from bus.messages.models import ModelCard
from bus.messages.presence import Load
from tests.support.envelope import error_of
from tests.support.health import health_of
from tests.support.models_owner import catalogue
from tests.support.stack import CARDS, CHAT_MODEL, EMBED_MODEL, beat, stack

COLD = ModelCard(id="heavy", kind="chat", tier=2, state="restarting", created=1)


async def test_models_are_listed_with_what_clients_and_tier_2_look_for(nats_url: str, tmp_path: Path) -> None:
    known = {
        "family": "qwen3",
        "description": "A model.",
        "aliases": ["big"],
        "tags": ["local"],
        "modalities": ["text"],
        "capabilities": ["completion", "chat", "tools"],
        "context_length": 4096,
        "dimensions": None,
        "parameters": 7_600_000_000,
        "dtype": "bfloat16",
        "size_bytes": 12,
        "estimated_bytes": 23,
        "memory_bytes": 34,
        "tier": 2,
        "state": "ready",
        "error": None,
        "pinned": True,
        "priority": "high",
        "leases": 2,
        "expires_at": 1_800_000_000.5,
    }
    card = convert(
        {**known, "id": "org/big", "kind": "chat", "created": 1, "quantisation": "4bit", "ttl": 60}, ModelCard
    )
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (card, COLD)):
        (big, cold) = (await edge.openai.models.list()).data

    assert (big.id, big.object, big.owned_by, big.created) == ("org/big", "model", "local-mlx", 1)
    assert big.model_extra == {
        **known,
        "type": "chat",
        "max_model_len": 4096,
        "quantization": "4bit",
        "ttl_seconds": 60,
    }
    assert cold.model_extra is not None
    assert (cold.model_extra["memory_bytes"], cold.model_extra["expires_at"]) == (None, None)


async def test_what_lies_on_this_machine_is_listed_when_it_is_asked_for(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus):
        listed = (await edge.openai.models.list(extra_query={"available": "true"})).data
        async with edge.http.get("/v1/models?colour=blue") as response:
            error = await error_of(response)

    assert [model.id for model in listed] == [CHAT_MODEL, EMBED_MODEL, "on/disk"]
    assert (listed[-1].model_extra or {})["state"] == "available"
    assert (response.status, error["param"]) == (400, "colour")


async def test_model_is_found_by_its_id_with_slashes_of_either_kind(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus):
        retrieved = await edge.openai.models.retrieve(CHAT_MODEL)
        async with edge.http.get(f"/v1/models/{CHAT_MODEL}") as response:
            raw = await response.json()

        assert retrieved.id == raw["id"] == CHAT_MODEL


async def test_health_names_a_warm_model_before_a_heavy_one(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (COLD, *CARDS)):
        _, health = await health_of(edge.http, "/health")

    assert (health["model_id"], health["model_status"]) == (CHAT_MODEL, "initialized")


async def test_unknown_model_is_not_found(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus):
        with pytest.raises(NotFoundError) as raised:
            await edge.openai.models.retrieve("no/such")

        assert raised.value.code == "model_not_found"


async def test_edge_alone_lives_but_is_not_ready(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge:
        async with edge.http.get("/livez") as live, edge.http.get("/readyz") as ready, edge.http.get("/health") as sick:
            reasons = (await ready.json())["reasons"]
            health = await sick.json()

        assert (live.status, ready.status, sick.status) == (200, 503, 503)
        assert len(reasons) == 3
        assert health["status"] == "unhealthy"
        assert health["model_status"] == "uninitialized"


async def test_edge_is_ready_when_owners_and_warm_models_are(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (*CARDS, COLD)):
        await beat(edge, "core-1", "core")
        await beat(edge, "historian-1", "historian")
        await beat(edge, "chat-1", "chat", model=CHAT_MODEL, detail={"dtype": "bfloat16", "blas": "accelerate"})
        ready, _ = await health_of(edge.http, "/readyz")
        well, report = await health_of(edge.http, "/health")

        assert (ready, well) == (200, 200)
        assert report == {
            "status": "ok",
            "model_id": CHAT_MODEL,
            "model_status": "initialized",
            "models_healthy": True,
            "warmup_enabled": True,
            "warmup_completed": True,
            "models": [
                {"id": CHAT_MODEL, "state": "ready", "dtype": "bfloat16", "blas": "accelerate"},
                {"id": EMBED_MODEL, "state": "ready", "dtype": None, "blas": None},
                {"id": "heavy", "state": "restarting", "dtype": None, "blas": None},
            ],
        }


async def test_warm_model_that_is_away_makes_the_edge_unready_and_is_named(nats_url: str, tmp_path: Path) -> None:
    away = ModelCard(id="slow", kind="chat", tier=1, state="restarting", created=1)
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (*CARDS, away)):
        ready, said = await health_of(edge.http, "/readyz")
        sick, _ = await health_of(edge.http, "/health")

        assert (ready, sick) == (503, 503)
        assert "The model slow is restarting." in said["reasons"]


async def test_queue_is_summed_over_the_instances_of_models(nats_url: str, tmp_path: Path) -> None:
    load = Load(queued=2, running=3, max_queue=100, concurrency=32)
    async with stack(nats_url, tmp_path) as edge:
        await beat(edge, "a", "chat", model=CHAT_MODEL, load=load)
        await beat(edge, "b", "chat", model=CHAT_MODEL, load=load)
        await beat(edge, "c", "embeddings", model=EMBED_MODEL, load=load)
        await beat(edge, "core-1", "core", load=load)
        async with edge.http.get("/v1/queue/stats") as response:
            stats = await response.json()

        one = {"queue_size": 2, "max_queue_size": 100, "active_requests": 3, "max_concurrency": 32}
        assert stats.pop("models") == {CHAT_MODEL: {key: 2 * value for key, value in one.items()}, EMBED_MODEL: one}
        assert stats == {key: 3 * value for key, value in one.items()}


async def test_front_page_names_the_endpoints(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, edge.http.get("/") as response:
        assert "POST /v1/chat/completions" in (await response.json())["endpoints"]
