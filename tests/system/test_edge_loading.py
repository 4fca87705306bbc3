"""Loading and unloading models over HTTP, as the official client orders it, and as bytes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, ConflictError, InternalServerError, NotFoundError

from bus.errors import RefusedError
from bus.messages.models import LoadModel, ModelCard, ReloadCatalogue, RemoveModel, UnloadModel
from http_edge.config import EdgeConfig
from tests.support.envelope import error_of
from tests.support.models_owner import catalogue
from tests.support.nats import until
from tests.support.stack import CARDS, CHAT_MODEL, stack

HEAVY = ModelCard(
    id="org/heavy",
    kind="chat",
    tier=2,
    state="unloaded",
    created=1,
    family="qwen",
    context_length=8192,
    memory_bytes=int(4.2 * 2**30),
    tags=("local", "chat"),
)
LOAD = "/v1/models/load"
METADATA = {
    "id": "org/heavy",
    "family": "qwen",
    "type": "chat",
    "context_length": 8192,
    "tags": ["local", "chat"],
}
LOADED = {"model_id": "org/heavy", "status": "loaded", "vram_usage_gb": 4.2, "metadata": METADATA}
UNLOADED = {"model_id": "org/heavy", "status": "unloaded", "vram_freed_gb": 4.2}


async def test_model_is_loaded_from_a_path_in_the_shape_of_the_lab(nats_url: str, tmp_path: Path) -> None:
    body = {
        "model_path": "mlx-community/heavy-4bit",
        "model_type": "lm",
        "model_id": "org/heavy",
        "context_length": 8192,
        "priority": "high",
        "ttl": 60,
    }
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (HEAVY,)) as owner:
        loaded = await edge.openai.post("/models/load", body=body, cast_to=object)

    order = LoadModel(
        model="org/heavy", path="mlx-community/heavy-4bit", kind="chat", context_length=8192, priority="high", ttl=60
    )
    assert loaded == LOADED
    assert owner.orders == [order]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("lm", "chat"),
        ("chat", "chat"),
        ("embeddings", "embeddings"),
        ("multimodal", "vision"),
        ("image-generation", "image"),
        ("whisper", "transcription"),
    ],
)
async def test_kinds_of_models_have_the_names_of_other_servers_too(
    nats_url: str, tmp_path: Path, said: str, kind: Any
) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (HEAVY,)) as owner:
        body = {"model_path": "some/path", "model_id": "org/heavy", "model_type": said}
        async with edge.http.post(LOAD, json=body) as response:
            await response.read()

    assert owner.orders == [LoadModel(model="org/heavy", path="some/path", kind=kind)]


async def test_model_of_the_catalogue_is_loaded_and_unloaded_by_its_id(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (HEAVY,)) as owner:
        told = [
            await edge.openai.post("/models/org/heavy/load", cast_to=object),
            await edge.openai.post("/models/org%2Fheavy/load", body={"ttl": 0}, cast_to=object),
            await edge.openai.delete("/models/org/heavy/unload", cast_to=object),
            await edge.openai.post("/models/org/heavy/unload", cast_to=object),
        ]

    assert told == [LOADED, LOADED, UNLOADED, UNLOADED]
    assert owner.orders == [
        LoadModel(model="org/heavy"),
        LoadModel(model="org/heavy", ttl=0),
        UnloadModel(model="org/heavy"),
        UnloadModel(model="org/heavy"),
    ]


async def test_catalogue_is_read_again_and_what_was_added_is_removed(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (HEAVY,)) as owner:
        changes = await edge.openai.post("/models/reload", cast_to=object)
        deleted = await edge.openai.models.delete("org/heavy")

    assert changes == {"added": ["new"], "changed": ["same"], "removed": ["old"]}
    assert (deleted.id, deleted.object, deleted.deleted) == ("org/heavy", "model", True)
    assert owner.orders == [ReloadCatalogue(), RemoveModel(model="org/heavy")]


@pytest.mark.parametrize(
    ("method", "path", "asked", "last"),
    [
        ("POST", LOAD, {"json": {"model_id": "org/heavy", "stream": True}}, LOADED),
        ("POST", "/v1/models/org/heavy/load", {"headers": {"Accept": "text/event-stream"}}, LOADED),
        ("DELETE", "/v1/models/org/heavy/unload", {"json": {"stream": True}}, UNLOADED),
    ],
)
async def test_progress_is_a_stream_of_events(
    nats_url: str, tmp_path: Path, method: str, path: str, asked: dict[str, Any], last: dict[str, Any]
) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (HEAVY,)):
        async with edge.http.request(method, path, **asked) as response:
            content = (await response.read()).decode()

    frames = content.removesuffix("\n\n").split("\n\n")
    first, end = (json.loads(frame.removeprefix("data: ")) for frame in frames[:2])
    assert response.content_type == "text/event-stream"
    assert set(first) == {"model_id", "status", "why", "seconds"}
    assert (first["status"], first["why"]) == ("loading" if last is LOADED else "draining", "it was asked for")
    assert end == last
    assert frames[2:] == ["data: [DONE]"]


async def test_stream_comments_while_loading_is_silent(nats_url: str, tmp_path: Path) -> None:
    config = EdgeConfig(port=0, drain_seconds=2.0, sse_comment_seconds=0.05)
    async with stack(nats_url, tmp_path, config) as edge, catalogue(edge.bus, (HEAVY,)) as owner:
        owner.gate.clear()
        async with edge.http.post(LOAD, json={"model_id": "org/heavy", "stream": True}) as response:
            await response.content.readuntil(b": working\n\n")
            owner.gate.set()
            rest = await response.read()

    assert rest.endswith(b"data: [DONE]\n\n")


async def test_refusal_tells_the_client_not_to_ask_again(nats_url: str, tmp_path: Path) -> None:
    refusal = RefusedError("insufficient_memory", "It needs 90 GB; there are 32 GB.")
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (*CARDS, HEAVY), refusal):
        with pytest.raises(InternalServerError) as full:
            await edge.openai.post("/models/load", body={"model_id": "org/heavy"}, cast_to=object)
        with pytest.raises(NotFoundError) as unknown:
            await edge.openai.post("/models/no/such/load", cast_to=object)
        with pytest.raises(ConflictError) as warm:
            await edge.openai.delete(f"/models/{CHAT_MODEL}/unload", cast_to=object)
        async with edge.http.post(LOAD, json={"model_id": "org/heavy", "stream": True}) as response:
            frames = (await response.read()).decode().removesuffix("\n\n").split("\n\n")

    assert (full.value.status_code, full.value.code) == (507, "insufficient_memory")
    assert full.value.response.headers["x-should-retry"] == "false"
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert (warm.value.code, CHAT_MODEL in str(warm.value)) == ("conflict", True)
    assert json.loads(frames[-1].removeprefix("data: "))["error"]["code"] == "insufficient_memory"


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (LOAD, {}, 400, "model_id"),
        (LOAD, {"model_id": "nope"}, 404, "model_id"),
        (LOAD, {"model_id": "org/heavy", "model_type": "lm"}, 400, "model_type"),
        (LOAD, {"model_id": "org/heavy", "context_length": 4096}, 400, "context_length"),
        (LOAD, {"model_id": "org/heavy", "priority": "low"}, 400, "priority"),
        (LOAD, {"model_path": "some/path", "model_type": "llm"}, 400, "model_type"),
        (LOAD, {"model_path": "some/path", "context_length": 0}, 400, "context_length"),
        (LOAD, {"model_path": "some/path", "priority": "urgent"}, 400, "priority"),
        (LOAD, {"model_path": ""}, 400, "model_path"),
        (LOAD, {"model_id": "org/heavy", "ttl": -1}, 400, "ttl"),
        (LOAD, {"model": "org/heavy"}, 400, "model"),
        ("/v1/models/org/heavy/load", {"model_path": "x"}, 400, "model_path"),
        ("/v1/models/org/heavy/unload", {"force": True}, 400, "force"),
        ("/v1/models/reload", {"force": True}, 400, "force"),
    ],
)
async def test_wrong_order_is_refused_by_the_name_of_its_field(
    nats_url: str, tmp_path: Path, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (HEAVY,)):
        async with edge.http.post(path, json=body) as response:
            error = await error_of(response)

    assert (response.status, error["param"]) == (status, param)


async def test_web_page_elsewhere_cannot_load_a_model(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (HEAVY,)) as owner:
        page = {"Origin": "https://example.com"}
        async with edge.http.post("/v1/models/org/heavy/load", headers=page) as response:
            error = await error_of(response)

    assert response.status == 400
    assert "application/json" in error["message"]
    assert owner.orders == []


async def test_whoever_waits_hears_that_the_owner_has_gone(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge:
        async with catalogue(edge.bus, (HEAVY,)) as owner:
            owner.gate.clear()
            waiting = asyncio.create_task(edge.openai.post("/models/org/heavy/load", cast_to=object))
            await until(lambda: owner.orders)
        with pytest.raises(APIError) as raised:
            await waiting

    assert raised.value.code == "unavailable"
