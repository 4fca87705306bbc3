"""Pictures from HTTP to a model that sees them: Qwen2-VL and SigLIP, tiny and with random weights."""

import math
from pathlib import Path
from typing import Any

import pytest

from actors.engines.embeddings import EmbeddingLimits
from actors.engines.pictures import PictureEngine
from tests.support import tiny_pictures
from tests.support.embed import form, post, seeing, uploads
from tests.support.pictures import data_url, pixels, png, video
from tests.support.stack import EMBED_MODEL, Stack

SEEN = png(pixels(40, 56, seed=1))
OTHER = png(pixels(40, 56, seed=2))


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def embedded(edge: Stack, path: str, **body: Any) -> list[float]:
    status, answer = await post(edge, path, **body)
    assert status == 200, answer
    (vector,) = answer["embeddings"]
    assert math.isclose(cosine(vector, vector), 1, abs_tol=1e-5)
    return list(vector)


async def parts(edge: Stack, *content: dict[str, Any]) -> list[float]:
    body = {"model": EMBED_MODEL, "input": [{"content": content}]}
    status, answer = await post(edge, "/v1/embeddings", json=body)
    assert status == 200, answer
    assert answer["usage"]["prompt_tokens"] > 0
    return list(answer["data"][0]["embedding"])


@pytest.mark.parametrize("family", ["qwen2_vl", "siglip"])
async def test_a_picture_has_the_same_vector_on_every_route(nats_url: str, tmp_path: Path, family: str) -> None:
    engine = PictureEngine(getattr(tiny_pictures, family)(tmp_path / family), EmbeddingLimits(cache_bytes=2**20))
    image = {"type": "image_url", "image_url": {"url": data_url(SEEN)}}
    async with seeing(nats_url, tmp_path, engine) as edge:
        uploaded = await embedded(edge, "/embed/image", data=form(file=SEEN))
        other = await embedded(edge, "/embed/image", data=form(file=OTHER))
        in_json = await embedded(edge, "/embed/multimodal", json={"image": data_url(SEEN)})
        as_part = await parts(edge, image)
        text = await embedded(edge, "/embed/text", json={"model": EMBED_MODEL, "text": "a cat"})
        first = await embedded(edge, "/embed/video", data=form(file=video([0] * 8), frames="4", pooling="first"))
        mean = await embedded(edge, "/embed/video", data=form(file=video([0] * 8), frames="4", pooling="mean"))
        refused = await post(edge, "/embed/text", json={"model": EMBED_MODEL, "text": "a cat", "dimensions": 4})
        cut = await embedded(
            edge, "/embed/text", json={"model": EMBED_MODEL, "text": "a cat", "dimensions": 4, "allow_lossy": True}
        )
        both = await post(edge, "/embed/multimodal", data=form(text="a cat", image=SEEN))

    assert cosine(uploaded, in_json) == pytest.approx(1, abs=1e-5)
    assert cosine(uploaded, as_part) == pytest.approx(1, abs=1e-5)
    assert cosine(first, mean) == pytest.approx(1, abs=1e-5)
    assert max(cosine(uploaded, other), cosine(uploaded, text), cosine(uploaded, first)) < 0.9999
    assert (refused[0], refused[1]["error"]["param"], len(cut)) == (400, "dimensions", 4)
    if family == "siglip":
        assert (both[0], both[1]["error"]["code"]) == (400, "invalid_request")
    else:
        assert both[0] == 200
        assert cosine(uploaded, both[1]["embeddings"][0]) < 0.9999
    assert uploads(tmp_path) == []
