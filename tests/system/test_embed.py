"""/embed/* and content parts of /v1/embeddings: images and videos through a real edge and actor."""

import asyncio
import hashlib
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from actors.engines.echo import EchoEmbeddings
from actors.engines.engine import NO_PICTURES, Pictures
from bus.errors import RefusedError
from bus.messages.embeddings import (
    EmbedChunk,
    EmbedContent,
    EmbedRequest,
    Frames,
    ImagePart,
    Part,
    TextPart,
    VideoPart,
)
from bus.subjects import EMBED
from tests.support.embed import form, post, seeing, uploads
from tests.support.nats import until
from tests.support.pictures import data_url, pixels, png, video
from tests.support.stack import EMBED_MODEL


class GatedEmbeddings(EchoEmbeddings):
    """Waits at the gate before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.asked = asyncio.Event()
        self.closed = 0

    async def embed(self, work: tuple[str, ...]) -> AsyncGenerator[EmbedChunk]:
        self.asked.set()
        try:
            await self.gate.wait()
            async with aclosing(super().embed(work)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self.closed += 1


class KeepingEmbeddings(EchoEmbeddings):
    """Keeps the pictures that it was given, one request after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []
        self.asked: list[Frames] = []

    def prepare(self, request: EmbedRequest, pictures: Pictures = NO_PICTURES) -> tuple[str, ...]:
        self.seen += pictures.values()
        self.asked.append(request.frames)
        return super().prepare(request, pictures)


async def vector(*parts: Part, pictures: Pictures, frames: Frames | None = None) -> list[float]:
    """Return what the engine itself makes of the parts."""
    engine = EchoEmbeddings()
    request = EmbedRequest(input=(EmbedContent(content=parts),), frames=frames or Frames())
    async with aclosing(engine.embed(engine.prepare(request, pictures))) as chunks:
        (chunk,) = [chunk async for chunk in chunks]
    return list(struct.unpack("<8f", chunk.vectors[0]))


async def test_pictures_reach_the_model_as_they_are_and_leave_nothing(nats_url: str, tmp_path: Path) -> None:
    seen = pixels()
    image, blob = png(seen), hashlib.sha256(png(seen)).hexdigest()
    of_image = await vector(ImagePart(blob=blob), pictures={blob: (seen,)})
    of_both = await vector(TextPart(text="a cat"), ImagePart(blob=blob), pictures={blob: (seen,)})
    url = data_url(image)
    async with seeing(nats_url, tmp_path) as edge:
        alone = await post(edge, "/embed/image", data=form(file=image))
        both = await post(edge, "/embed/multimodal", data=form(text="a cat", image=image, model=EMBED_MODEL))
        inlined = await post(edge, "/embed/multimodal", json={"text": "a cat", "image": url})
        text_alone = await post(edge, "/embed/multimodal", json={"text": "a cat", "model": EMBED_MODEL})
        texts = await post(
            edge, "/embed/text", json={"texts": ["a cat", "two dogs"], "model": EMBED_MODEL, "normalize": True}
        )
        parts = [
            "a cat",
            {"type": "text", "text": "a cat"},
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "image_url", "image_url": url},
            {"content": [{"type": "text", "text": "a cat"}, {"type": "image_url", "image_url": {"url": url}}]},
        ]
        many = await edge.openai.embeddings.create(model=EMBED_MODEL, input=parts * 4)  # type: ignore[arg-type]

        assert alone[0] == 200
        assert alone[1]["embeddings"][0] == pytest.approx(of_image, abs=1e-6)
        assert alone[1]["shape"] == [1, 8]
        assert alone[1]["model"] == EMBED_MODEL
        assert alone[1]["processing_time"] > 0
        assert alone[1]["usage"] == {"prompt_tokens": 1, "total_tokens": 1}
        assert both[1]["embeddings"] == inlined[1]["embeddings"] == [pytest.approx(of_both, abs=1e-6)]
        assert text_alone[1]["shape"] == [1, 8]
        assert (texts[1]["shape"], texts[1]["model"], texts[1]["truncated"]) == ([2, 8], EMBED_MODEL, [])
        assert texts[1]["embeddings"][0] == text_alone[1]["embeddings"][0]
        told = [tuple(each.embedding) for each in many.data]
        assert [each.index for each in many.data] == list(range(20))
        assert told == told[:5] * 4
        assert told[0] == told[1] == tuple(texts[1]["embeddings"][0])
        assert told[2] == told[3] == tuple(alone[1]["embeddings"][0])
        assert told[4] == tuple(both[1]["embeddings"][0])
        assert uploads(tmp_path) == []


async def test_prompt_named_or_said_goes_before_what_is_embedded(nats_url: str, tmp_path: Path) -> None:
    model, image = {"model": EMBED_MODEL}, png(pixels())
    async with seeing(nats_url, tmp_path) as edge:
        whole = await post(edge, "/embed/text", json=model | {"text": "query: a cat"})
        named = await post(edge, "/embed/text", json=model | {"texts": ["a cat"], "prompt_name": "query"})
        said = await post(edge, "/embed/text", json=model | {"text": "a cat", "prompt": "query: ", "truncate": None})
        in_json = await post(edge, "/embed/multimodal", json=model | {"text": "a cat", "prompt_name": "query"})
        in_form = await post(edge, "/embed/multimodal", data=form(text="a cat", prompt="query: ", **model))
        plain, told = [await post(edge, "/embed/image", data=form(file=image, prompt=each)) for each in ("", "query: ")]
        unknown = await post(edge, "/embed/text", json=model | {"text": "a cat", "prompt_name": "passage"})

    for answer in (named, said, in_json, in_form):
        assert answer[1]["embeddings"] == whole[1]["embeddings"]
    assert (plain[0], told[0], plain[1]["embeddings"] == told[1]["embeddings"]) == (200, 200, False)
    error = unknown[1]["error"]
    assert (unknown[0], error["param"], "this model's are query" in error["message"]) == (400, "prompt_name", True)


async def test_frames_of_a_video_come_from_the_middles_of_equal_parts(nats_url: str, tmp_path: Path) -> None:
    levels = list(range(0, 240, 10))
    file = video(levels)
    engine = KeepingEmbeddings()
    async with seeing(nats_url, tmp_path, engine) as edge:
        four = await post(edge, "/embed/video", data=form(file=file, frames="4", pooling="max"))
        more = await post(edge, "/embed/video", data=form(file=video(levels[:3])))
        inlined = await edge.openai.embeddings.create(
            model=EMBED_MODEL,
            input=[{"type": "video_url", "video_url": {"url": data_url(file, "video/mp4")}}],  # type: ignore[list-item]
        )

    greys = [[int(frame.mean()) for frame in frames] for frames in engine.seen]
    assert (four[0], four[1]["shape"]) == (200, [1, 8])
    assert more[0] == 200
    assert greys == [
        pytest.approx(levels[3::6], abs=6),
        pytest.approx(levels[:3], abs=6),
        pytest.approx(levels[1::3], abs=6),
    ]
    assert len(inlined.data) == 1
    assert [frames[0].shape for frames in engine.seen] == [(24, 32, 3)] * 3
    assert engine.asked == [Frames(count=4, pooling="max"), Frames(), Frames()]
    assert uploads(tmp_path) == []


async def test_upload_is_kept_while_it_is_needed_and_gone_when_its_client_has_left(
    nats_url: str, tmp_path: Path
) -> None:
    engine = GatedEmbeddings()
    image = png(pixels())
    async with seeing(nats_url, tmp_path, engine) as edge:
        leaving = asyncio.create_task(post(edge, "/embed/image", data=form(file=image)))
        await asyncio.wait_for(engine.asked.wait(), 60)
        engine.asked.clear()
        staying = asyncio.create_task(post(edge, "/embed/image", data=form(file=image)))
        await asyncio.wait_for(engine.asked.wait(), 60)
        both = [path.read_bytes() for path in uploads(tmp_path)]
        leaving.cancel()
        await until(lambda: len(uploads(tmp_path)) == 1)
        await until(lambda: engine.closed == 1)
        engine.gate.set()

        assert (await staying)[0] == 200
        assert both == [image, image]
        assert uploads(tmp_path) == []


async def test_blob_that_was_not_uploaded_is_read_as_well(nats_url: str, tmp_path: Path) -> None:
    seen = pixels()
    async with seeing(nats_url, tmp_path) as edge:
        blob = await edge.blobs.put(png(seen))
        request = EmbedRequest(input=(EmbedContent(content=(ImagePart(blob=blob),)),))
        async with edge.bus.stream(EMBED(EMBED_MODEL), request) as answer:
            chunks = [item async for item in answer if isinstance(item, EmbedChunk)]
        gone = EmbedRequest(input=("text", EmbedContent(content=(ImagePart(blob="0" * 64),))))
        with pytest.raises(RefusedError, match="There is no blob 000") as refusal:
            async with edge.bus.stream(EMBED(EMBED_MODEL), gone) as answer:
                [item async for item in answer]

        assert list(struct.unpack("<8f", chunks[0].vectors[0])) == await vector(
            ImagePart(blob=blob), pictures={blob: (seen,)}
        )
        assert refusal.value.failure.param == "input[1].content[0]"


async def test_blob_of_an_image_is_no_video_also_beside_the_image(nats_url: str, tmp_path: Path) -> None:
    async with seeing(nats_url, tmp_path) as edge:
        blob = await edge.blobs.put(png(pixels()))
        image, film = (EmbedContent(content=(part,)) for part in (ImagePart(blob=blob), VideoPart(blob=blob)))
        with pytest.raises(RefusedError, match="The video cannot be read") as refusal:
            async with edge.bus.stream(EMBED(EMBED_MODEL), EmbedRequest(input=(image, image, film))) as answer:
                [item async for item in answer]

    assert refusal.value.failure.param == "input[2].content[0]"
