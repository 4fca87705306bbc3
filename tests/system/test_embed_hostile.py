"""Files that should not have been sent: each is told what is wrong, and the model goes on as if nothing had come."""

from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from http_edge.config import EdgeConfig
from tests.support.embed import form, post, seeing, uploads
from tests.support.pictures import bomb, data_url, encoded, gif, pixels, png, video
from tests.support.processes import children_that_run
from tests.support.stack import EMBED_MODEL

GOOD = png(pixels(200, 300))
FILM = video([0, 50, 100, 150, 200])

# Each with its status, and what its message says.
IMAGES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "empty"),
    "text": (b"Not an image at all, whatever its name says.", 400, "none of the formats"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 400, "none of the formats"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), 400, "none of the formats"),
    "head alone": (GOOD[:20], 400, "cannot be read"),
    "truncated": (GOOD[: len(GOOD) // 2], 400, "not whole"),
    "corrupt": (GOOD[:100] + bytes(500) + GOOD[600:], 400, "broken"),
    "60000 × 60000": (bomb(60_000, 60_000, rows=1), 400, "60000 × 60000 pixels; the limit is 1000000"),
    "bomb": (bomb(4000, 4000), 400, "4000 × 4000 pixels"),
    "webp": (encoded(Image.new("RGB", (16_000, 100)), "WEBP"), 400, "16000 × 100 pixels"),
    "floats": (encoded(Image.new("F", (4, 4)), "TIFF"), 400, "mode F"),
    "too many bytes": (bytes(2_000_001), 413, "larger than 2000000 bytes"),
}
VIDEOS: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "empty"),
    "text": (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n", 400, "none of the formats"),
    "image": (GOOD, 400, "none of the formats"),
    "head alone": (FILM[:40], 400, "broken"),
    "without its index": (FILM[: len(FILM) // 2], 400, "broken"),
    "without its frames": (b"\0\0\0\x18ftypisom" + bytes(400), 400, "broken"),
    "too many pixels": (video([0], size=(1200, 1200)), 400, "1200 × 1200 pixels"),
    "too many bytes": (bytes(300_001), 413, "larger than 300000 bytes"),
}
ODD = {
    "animated": gif(3),
    "animation of 10,000 frames": gif(10_000),
    "cmyk": encoded(Image.new("CMYK", (8, 8)), "JPEG"),
    "one pixel": png(pixels(1, 1)),
    "a line": png(pixels(1, 60_000)),
}


def wrong_forms() -> list[tuple[str, aiohttp.FormData, str]]:
    """Return path, form, and the field at fault."""
    two = form(file=GOOD)
    two.add_field("file", GOOD, filename="another file")
    return [
        ("/embed/image", two, "file"),
        ("/embed/image", form(model=EMBED_MODEL), "file"),
        ("/embed/image", form(file=GOOD, file2=GOOD), "file2"),
        ("/embed/image", form(file=GOOD, dimensions="many"), "dimensions"),
        ("/embed/image", form(file=GOOD, normalize="false"), "normalize"),
        ("/embed/image", form(file=GOOD, model="x" * 300), "model"),
        ("/embed/multimodal", form(model=EMBED_MODEL), "text"),
        ("/embed/multimodal", form(file=GOOD), "file"),
        ("/embed/multimodal", form(text="x" * (512 * 1024 + 1)), "text"),
        ("/embed/multimodal", form(text="word " * 1000, image=GOOD), "text"),
        ("/embed/video", form(file=FILM, frames="65"), "frames"),
        ("/embed/video", form(file=FILM, pooling="median"), "pooling"),
    ]


def wrong_bodies() -> list[tuple[str, dict[str, Any], str]]:
    """Return path, body, and the field at fault."""
    model = {"model": EMBED_MODEL}
    image = {"type": "image_url", "image_url": {"url": data_url(GOOD)}}

    def of_url(url: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url}}

    return [
        ("/embed/text", model | {"texts": []}, "texts"),
        ("/embed/text", model | {"texts": ["fine", "word " * 200_000]}, "texts[1]"),
        ("/embed/text", model | {"text": ""}, "text"),
        ("/embed/text", model | {"text": "a", "texts": ["a"]}, "texts"),
        ("/embed/text", model | {"text": "a", "normalize": False}, "normalize"),
        ("/embed/multimodal", model | {"image": "https://example.com/cat.png"}, "image"),
        ("/embed/multimodal", model | {"image": "data:image/png;base64,@@@"}, "image"),
        ("/embed/multimodal", model | {"image": "data:image/png;base64,"}, "image"),
        ("/v1/embeddings", model | {"input": ["a", of_url("http://example.com/cat.png")]}, "input[1].image_url"),
        ("/v1/embeddings", model | {"input": ["a", of_url("file:///etc/passwd")]}, "input[1].image_url"),
        ("/v1/embeddings", model | {"input": [of_url("data:image/png;base64,AAA")]}, "input[0].image_url"),
        ("/v1/embeddings", model | {"input": [image] * 20 + [of_url(data_url(b"text"))]}, "input[20].image_url"),
        (
            "/v1/embeddings",
            model | {"input": [image, {"content": [{"type": "text", "text": "a"}, of_url(data_url(GOOD[:90]))]}]},
            "input[1].content[1].image_url",
        ),
        ("/v1/embeddings", model | {"input": [{"content": []}]}, "input[0].content"),
        ("/v1/embeddings", model | {"input": [{"type": "image_url", "file": "x"}]}, "input[0].file"),
        ("/v1/embeddings", model | {"input": [{"type": "audio"}]}, "input[0].type"),
        ("/v1/embeddings", model | {"input": [1, image]}, "input[0]"),
        ("/v1/embeddings", model | {"input": [{}]}, "input[0].type"),
    ]


async def test_files_that_cannot_be_read_are_refused_and_others_are_read_as_before(
    nats_url: str, tmp_path: Path
) -> None:
    config = EdgeConfig(port=0, max_image_bytes=2_000_000, max_video_bytes=300_000, drain_seconds=2.0)
    async with seeing(nats_url, tmp_path, config=config) as edge:
        before = await post(edge, "/embed/image", data=form(file=GOOD))
        for path, files in (("/embed/image", IMAGES), ("/embed/video", VIDEOS)):
            for name, (content, status, said) in files.items():
                told = await post(edge, path, data=form(file=content))
                assert told[0] == status, (name, told)
                assert (said in told[1]["error"]["message"], told[1]["error"]["param"]) == (True, "file"), (name, told)
        for name, content in ODD.items():
            assert (await post(edge, "/embed/image", data=form(file=content)))[0] == 200, name
        for path, data, param in wrong_forms():
            told = await post(edge, path, data=data)
            assert (told[0], told[1]["error"]["param"]) == (400, param), (path, told)
        for path, body, param in wrong_bodies():
            told = await post(edge, path, json=body)
            assert (told[0], told[1]["error"]["param"]) == (400, param), (path, told)
        plain = await post(edge, "/embed/image", data=b"file=x", headers={"Content-Type": "text/plain"})
        longest = await post(edge, "/embed/text", json={"model": EMBED_MODEL, "texts": ["a", "b" * 1_100_000]})
        after = await post(edge, "/embed/image", data=form(file=GOOD))
        children = children_that_run("actors.media_child")
        assert (plain[0], "multipart/form-data" in plain[1]["error"]["message"]) == (400, True)
        assert (longest[0], longest[1]["error"]["param"]) == (413, "texts[1]")
        assert (after[0], after[1]["embeddings"]) == (200, before[1]["embeddings"])
        assert [each.memory_info().rss < 200 * 2**20 for each in children] == [True]
        assert uploads(tmp_path) == []
