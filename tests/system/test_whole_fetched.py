"""Heavy models that are not on this machine yet: fetched and quantised while those who ask wait."""

from pathlib import Path

import aiohttp

from tests.support import tiny_models
from tests.support.hub import TINY, hub_running
from tests.support.processes import fusion_up

CONFIG = f"""
actors: {{slots: 1}}
models:
  - {{id: fusion-toy, path: "embedded:fusion-toy", kind: chat}}
  - {{id: tiny, path: "{TINY}", kind: chat, tier: 2, quantisation: 8bit}}
"""


async def test_model_of_the_hub_is_fetched_and_quantised_when_it_is_asked(tmp_path: Path) -> None:
    folder = tiny_models.llama(tmp_path / "tiny")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    async with hub_running(files) as hub:
        home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub"), "HOME": str(tmp_path)}
        async with fusion_up(tmp_path, CONFIG, home) as fusion, aiohttp.ClientSession(fusion.running.http_url) as http:
            assert hub.asked == []
            hub.slow = "model.safetensors"
            hub.go_on.clear()
            body = {"model": "tiny", "prompt": "Once", "max_tokens": 3, "stream": True}
            async with http.post("/v1/completions", json=body) as response:
                first = await response.content.readline()
                async with http.get("/v1/models/tiny") as before:
                    unquantised = (await before.json())["quantization"]
                hub.go_on.set()
                rest = await response.content.read()
            async with http.get("/v1/models/tiny") as after:
                card = await after.json()

    assert first.startswith(b": loading")
    assert rest.endswith(b"data: [DONE]\n\n")
    assert unquantised is None
    assert (card["state"], card["quantization"]) == ("ready", "8bit")
    assert card["estimated_bytes"] > card["size_bytes"] > 0


async def test_model_that_cannot_be_fetched_is_refused_and_nothing_gives_way(tmp_path: Path) -> None:
    config = CONFIG.replace(TINY, "someone/else") + (
        '  - {id: here, path: "embedded:fusion-toy", kind: chat, tier: 2, preload: true}\n'
    )
    async with hub_running({}) as hub:
        home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub")}
        async with fusion_up(tmp_path, config, home) as fusion, aiohttp.ClientSession(fusion.running.http_url) as http:
            body = {"model": "tiny", "prompt": "Once", "max_tokens": 3}
            async with http.post("/v1/models/here/load") as preloaded:
                assert preloaded.status == 200
            async with http.post("/v1/completions", json=body) as response:
                status, error = response.status, (await response.json())["error"]
            async with http.get("/v1/models/here") as still:
                state = (await still.json())["state"]

    assert (status, error["code"], error["param"]) == (400, "invalid_request", "model")
    assert "someone/else" in error["message"]
    assert state == "ready"
