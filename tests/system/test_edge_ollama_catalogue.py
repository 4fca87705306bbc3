"""The catalogue as Ollama's official client reads it, loads from it and unloads."""

from pathlib import Path

from ollama import AsyncClient

from bus.messages.models import LoadModel, ModelCard, UnloadModel
from tests.support.models_owner import catalogue
from tests.support.ollama_client import failing
from tests.support.stack import CARDS, CHAT_MODEL, EMBED_MODEL, stack


async def test_request_that_says_nothing_loads_the_model_or_unloads_it(nats_url: str, tmp_path: Path) -> None:
    heavy = ModelCard(id="heavy", kind="chat", tier=2, state="unloaded", created=1)
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, (*CARDS, heavy)) as owner:
        async with AsyncClient(host=edge.url) as client:
            generated = await client.generate("heavy:latest", keep_alive="1m30s")
            chatted = [part async for part in await client.chat("heavy", stream=True, keep_alive=-1)]
            unloaded = await client.generate("heavy", keep_alive=0)
            left = await client.chat("heavy", keep_alive="0s")
            warm = await failing(client.generate(CHAT_MODEL, keep_alive=0))
            errors = [(await failing(client.generate(name))).status_code for name in (EMBED_MODEL, "nope", ":latest")]

    assert (generated.response, generated.done, generated.done_reason) == ("", True, "load")
    assert [(part.message.content, part.done_reason) for part in chatted] == [("", "load")]
    assert (unloaded.done_reason, left.done_reason) == ("unload", "unload")
    assert owner.orders[:4] == [
        LoadModel(model="heavy", ttl=90),
        LoadModel(model="heavy", ttl=0),
        UnloadModel(model="heavy"),
        UnloadModel(model="heavy"),
    ]
    assert (warm.status_code, "stays loaded" in warm.error) == (409, True)
    assert errors == [400, 404, 404]


TOLD = (
    ModelCard(
        id=CHAT_MODEL,
        kind="chat",
        tier=1,
        state="ready",
        created=1_700_000_000,
        family="echo",
        context_length=4096,
        size_bytes=12,
        memory_bytes=34,
        parameters=7_615_616_512,
        quantisation="4bit",
        capabilities=("completion", "chat", "tools", "thinking"),
    ),
    ModelCard(
        id="heavy",
        kind="vision",
        tier=2,
        state="ready",
        created=1_700_000_000,
        expires_at=1_800_000_000,
        parameters=900,
    ),
    ModelCard(id="kept", kind="chat", tier=2, state="ready", created=1_700_000_000, expires_at=1e300),
    ModelCard(id=EMBED_MODEL, kind="embeddings", tier=0, state="loading", created=1_700_000_000),
)


async def test_catalogue_is_told(nats_url: str, tmp_path: Path) -> None:
    async with stack(nats_url, tmp_path) as edge, catalogue(edge.bus, TOLD):
        async with AsyncClient(host=edge.url) as client:
            listed = (await client.list()).models
            running = (await client.ps()).models
            shown = await client.show(f"{CHAT_MODEL}:latest")
            embedding = await client.show(EMBED_MODEL)
            unknown = await failing(client.show("nope"))
        async with edge.http.get("/api/version") as response:
            version = await response.json()

    assert [(each.model, each.size) for each in listed] == [
        (CHAT_MODEL, 12),
        ("heavy", 0),
        ("kept", 0),
        (EMBED_MODEL, 0),
    ]
    assert len({each.digest for each in listed}) == 4
    assert [each.modified_at and each.modified_at.timestamp() for each in listed] == [1_700_000_000] * 4
    assert [each.details and each.details.parameter_size for each in listed] == ["7.6B", "900", "", ""]
    assert [(each.name, each.size_vram) for each in running] == [(CHAT_MODEL, 34), ("heavy", 0), ("kept", 0)]
    assert (running[0].context_length, running[0].digest) == (4096, listed[0].digest)
    assert [each.expires_at and each.expires_at.year for each in running] == [9999, 2027, 9999]
    assert shown.details is not None
    assert (shown.details.family, shown.details.format, shown.details.quantization_level) == ("echo", "mlx", "4bit")
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo == {
        "general.architecture": "echo",
        "general.parameter_count": 7_615_616_512,
        "echo.context_length": 4096,
    }
    assert embedding.capabilities == ["embedding"]
    assert unknown.status_code == 404
    assert list(version) == ["version"]
