"""Embedding models that read texts and pictures: their vectors are those of transformers and torch."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from actors.conversion import quantised, weights_bytes
from actors.engines.embeddings import EmbeddingLimits
from actors.engines.pictures import PictureEngine
from actors.model_facts import discover
from bus.errors import RefusedError
from bus.messages.catalogue import ModelEntry
from bus.messages.embeddings import (
    EmbedChunk,
    EmbedContent,
    EmbedInput,
    EmbedRequest,
    FramePooling,
    Frames,
    ImagePart,
    TextPart,
    VideoPart,
)
from tests.support.picture_vectors import CASES, PICTURES, TEXTS, expected
from tests.support.tiny_bert import Floats, write_json
from tests.support.tiny_pictures import (
    DIMENSIONS,
    FAMILIES,
    MAX_TOKENS,
    SIGLIP_TOKENS,
    TEXT_SETTINGS,
    picture,
    qwen2_vl,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
FRAMES = tuple(picture(24, 24, seed=seed) for seed in range(4))
LIMITS = EmbeddingLimits(warmup=False)


def blob(name: str) -> str:
    return name.encode().hex().ljust(64, "0")


BLOBS = {blob(name): (image,) for name, image in PICTURES.items()} | {blob("video"): FRAMES}
IMAGE, OTHER = ImagePart(blob=blob("kept")), ImagePart(blob=blob("larger"))
VIDEO, TEXT = VideoPart(blob=blob("video")), TextPart(text="A bird sings")


def of(*parts: TextPart | ImagePart | VideoPart) -> EmbedContent:
    return EmbedContent(content=parts)


def case(name: str) -> EmbedContent:
    text, pictures = CASES[name]
    said = (TextPart(text=TEXTS[text]),) if text else ()
    # The text first: the models want the pictures first, wherever they stand.
    return of(*said, *(ImagePart(blob=blob(each)) for each in pictures))


@asynccontextmanager
async def loaded(folder: Path) -> AsyncIterator[PictureEngine]:
    engine = PictureEngine(folder, LIMITS)
    await engine.load()
    try:
        yield engine
    finally:
        await engine.unload()


async def chunks_of(engine: PictureEngine, request: EmbedRequest) -> list[EmbedChunk]:
    async with aclosing(engine.embed(engine.prepare(request, BLOBS))) as chunks:
        return [chunk async for chunk in chunks]


async def embed(engine: PictureEngine, *inputs: EmbedInput, pooling: FramePooling = "mean") -> Floats:
    request = EmbedRequest(input=inputs, truncate=True, frames=Frames(pooling=pooling))
    vectors = [vector for chunk in await chunks_of(engine, request) for vector in chunk.vectors]
    return np.array([np.frombuffer(vector, "<f4") for vector in vectors])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    folders = {name: write(root / f"{name}-embedding") for name, write in FAMILIES.items()}
    folders["gme"] = Path(shutil.copytree(folders["qwen2_vl"], root / "gme-Qwen2-VL"))
    return folders


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(folders: dict[str, Path]) -> AsyncIterator[dict[str, PictureEngine]]:
    engines = {name: PictureEngine(folder, LIMITS) for name, folder in folders.items()}
    for engine in engines.values():
        await engine.load()
    yield engines
    for engine in engines.values():
        await engine.unload()


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "siglip", "gme"])
async def test_vectors_are_those_of_torch_in_a_batch_and_alone(engines: dict[str, PictureEngine], name: str) -> None:
    wanted = expected(name)
    inputs = [case(each) for each in wanted]

    together = await embed(engines[name], *inputs)
    alone = np.concatenate([await embed(engines[name], each) for each in inputs])

    assert np.all((together * np.array(list(wanted.values()))).sum(axis=1) > 0.999999)
    assert np.all((together * alone).sum(axis=1) > 0.999999)


async def test_what_a_model_is_stands_in_its_files(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        engine = PictureEngine(folder, LIMITS)
        facts = await engine.load()
        await engine.unload()
        discovered = discover(folder)

        assert (discovered.kind, discovered.modalities) == ("embeddings", ("text", "image", "video"))
        assert (discovered.family, discovered.dimensions) == (facts.family, facts.dimensions)
        assert discovered.context_length == facts.context_length == (SIGLIP_TOKENS if name == "siglip" else MAX_TOKENS)
        assert discovered.loaded_bytes == pytest.approx(facts.size_bytes, rel=0.001)


async def test_tokens_of_pictures_and_of_the_frame_around_count(engines: dict[str, PictureEngine]) -> None:
    def tokens(engine: PictureEngine, *inputs: EmbedInput) -> list[int]:
        return [row.prompt_tokens for row in engine.prepare(EmbedRequest(input=inputs), BLOBS).rows]

    plain, shown = tokens(engines["qwen2_vl"], of(TEXT), of(TEXT, IMAGE))
    text, image = tokens(engines["siglip"], "A bird", of(IMAGE))

    # 32 × 24 pixels are 4 × 3 tokens of 8 × 8, between two marks. SigLIP has patches of 4 × 4 of 16 × 16 pixels.
    assert shown == plain + 12 + 2
    assert (text < SIGLIP_TOKENS, image) == (True, 16)


@pytest.mark.parametrize("name", ["qwen2_vl", "siglip"])
async def test_frames_of_a_video_are_pooled_as_asked(engines: dict[str, PictureEngine], name: str) -> None:
    blobs = {blob(f"frame {number}"): (frame,) for number, frame in enumerate(FRAMES)}
    request = EmbedRequest(input=tuple(of(ImagePart(blob=each)) for each in blobs))
    async with aclosing(engines[name].embed(engines[name].prepare(request, blobs))) as chunks:
        frames = np.array([np.frombuffer(each, "<f4") for chunk in [c async for c in chunks] for each in chunk.vectors])

    def unit(vector: Floats) -> Floats:
        return np.asarray(vector / np.linalg.norm(vector))

    weights = np.exp(frames @ unit(frames.mean(axis=0)))
    wanted: dict[FramePooling, Floats] = {
        "mean": frames.mean(axis=0),
        "max": frames.max(axis=0),
        "first": frames[0],
        "attention": (weights[:, None] * frames).sum(axis=0),
    }
    for pooling, vector in wanted.items():
        before, found, after = await embed(engines[name], "a bird", of(VIDEO), "a river", pooling=pooling)
        assert found @ unit(vector) > 0.999999, pooling
        assert np.allclose([before, after], await embed(engines[name], "a bird", "a river"), atol=1e-5)


async def test_a_text_goes_with_every_frame(engines: dict[str, PictureEngine]) -> None:
    engine = engines["qwen2_vl"]

    with_text = engine.prepare(EmbedRequest(input=(of(VIDEO, TEXT),)), BLOBS)
    first = engine.prepare(EmbedRequest(input=(of(VIDEO, TEXT),), frames=Frames(pooling="first")), BLOBS)
    alone = engine.prepare(EmbedRequest(input=(of(TEXT, ImagePart(blob=blob("frame"))),)), {blob("frame"): FRAMES[:1]})

    assert len(with_text.rows) == len(FRAMES)
    assert len(first.rows) == 1
    assert with_text.rows[0].tokens == first.rows[0].tokens == alone.rows[0].tokens


async def test_marks_in_a_text_are_text(engines: dict[str, PictureEngine]) -> None:
    engine = engines["qwen2_vl"]
    marks = "<|vision_start|><|image_pad|><|vision_end|><|im_end|><|video_pad|>"

    row = engine.prepare(EmbedRequest(input=(marks,))).rows[0]

    plain = engine.prepare(EmbedRequest(input=("a bird",))).rows[0]
    assert {token for token in row.tokens if token < 7} == {token for token in plain.tokens if token < 7}
    assert (await embed(engine, marks)).shape == (1, DIMENSIONS)


@pytest.mark.parametrize("name", ["qwen2_vl", "siglip"])
async def test_token_ids_are_a_text(engines: dict[str, PictureEngine], name: str) -> None:
    reader = engines[name]._loaded.parts.reader
    ids = tuple(reader._plain("bird sings"))  # type: ignore[attr-defined]  # both have it

    by_text, by_ids = await embed(engines[name], "bird sings", ids)

    assert np.array_equal(by_text, by_ids)


async def test_an_instruction_takes_the_place_of_the_usual_one(engines: dict[str, PictureEngine]) -> None:
    def tokens(name: str, prompt: str | None) -> tuple[int, ...]:
        return engines[name].prepare(EmbedRequest(input="a bird", prompt=prompt)).rows[0].tokens

    usual = {"qwen2_vl": "You are a helpful assistant.", "qwen3_vl": "Represent the user's input"}

    for name, said in usual.items():
        assert tokens(name, said) == tokens(name, None)
        assert tokens(name, "Find an image.") != tokens(name, None)
    assert tokens("siglip", "a bird, ") != tokens("siglip", None)


LONG = "a bird sings in the old tree, " * 100


@pytest.mark.parametrize(("name", "limit"), [("qwen2_vl", MAX_TOKENS), ("siglip", SIGLIP_TOKENS)])
async def test_what_is_too_long_is_refused_or_cut_and_told(
    engines: dict[str, PictureEngine], name: str, limit: int
) -> None:
    with pytest.raises(RefusedError, match=rf"maximum context length is {limit} .* input\[1\] has") as refused:
        engines[name].prepare(EmbedRequest(input=("a", LONG)))
    work = engines[name].prepare(EmbedRequest(input=("a", LONG), truncate=True))
    chunks = await chunks_of(engines[name], EmbedRequest(input=("a", LONG), truncate=True))

    assert (refused.value.code, refused.value.failure.param) == ("context_length_exceeded", "input[1]")
    assert (len(work.rows[1].tokens), [number for chunk in chunks for number in chunk.truncated]) == (limit, [1])
    assert work.rows[1].tokens[-1:] == work.rows[0].tokens[-1:]


@pytest.mark.parametrize(
    ("name", "item", "why"),
    [
        ("qwen2_vl", "", "is empty"),
        ("qwen2_vl", of(TextPart(text="")), "is empty"),
        ("qwen2_vl", of(VIDEO, VIDEO), "several videos"),
        ("qwen2_vl", (7, 600), "holds token 600"),
        ("qwen2_vl", (7, -1), "holds token -1"),
        ("qwen2_vl", (5,), "stands for a picture that is not there"),
        ("qwen2_vl", of(ImagePart(blob=blob("narrow"))), "A picture has 201 × 1 pixels"),
        ("qwen2_vl", of(*[IMAGE] * 50), "maximum context length"),
        ("siglip", of(TEXT, IMAGE), "several parts; this model reads a text, an image or a video"),
        ("siglip", of(IMAGE, OTHER), "several parts"),
    ],
)
async def test_what_a_model_does_not_read_is_refused_by_number(
    engines: dict[str, PictureEngine], name: str, item: EmbedInput, why: str
) -> None:
    blobs = BLOBS | {blob("narrow"): (picture(1, 201),)}

    with pytest.raises(RefusedError, match=why) as refused:
        request = EmbedRequest(input=("a", item), truncate=True)
        engines[name].pictures_of(request)
        engines[name].prepare(request, blobs)

    assert refused.value.failure.param == "input[1]"


async def test_pictures_are_named_before_they_are_decoded(engines: dict[str, PictureEngine]) -> None:
    request = EmbedRequest(input=("a", of(OTHER, TEXT, IMAGE), (7, 8), of(VIDEO)))

    assert engines["qwen3_vl"].pictures_of(request) == (OTHER, IMAGE, VIDEO)


async def test_vectors_are_cut_only_when_that_is_wanted_nevertheless(engines: dict[str, PictureEngine]) -> None:
    engine = engines["qwen2_vl"]
    (full,) = await embed(engine, "a bird")

    with pytest.raises(RefusedError, match="64 dimensions and are not made to be cut"):
        engine.pictures_of(EmbedRequest(input="a bird", dimensions=16))
    (chunk,) = await chunks_of(engine, EmbedRequest(input="a bird", dimensions=16, allow_lossy=True))

    cut = np.frombuffer(chunk.vectors[0], "<f4")
    assert np.allclose(cut, full[:16] / np.linalg.norm(full[:16]), atol=1e-6)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
async def test_folders_as_newer_transformers_write_them_are_read_too(
    folders: dict[str, Path], engines: dict[str, PictureEngine], name: str, tmp_path: Path
) -> None:
    newer = Path(shutil.copytree(folders[name], tmp_path / "newer"))
    config = json.loads((newer / "config.json").read_text())
    text = config.pop("text_config", None) or {key: config.pop(key) for key in TEXT_SETTINGS}
    rope = {"rope_theta": text.pop("rope_theta"), "mrope_section": text.pop("rope_scaling")["mrope_section"]}
    text |= {"model_type": f"{name}_text", "rope_parameters": {**rope, "rope_type": "default"}}
    vision = {**config["vision_config"], "model_type": f"{name}_vision"}
    write_json(newer / "config.json", {**config, "text_config": text, "vision_config": vision})

    async with loaded(newer) as engine:
        found = await embed(engine, "a bird", of(IMAGE, TEXT))

    assert np.allclose(found, await embed(engines[name], "a bird", of(IMAGE, TEXT)), atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "siglip"])
async def test_a_quantised_model_gives_nearly_the_same_vectors(
    folders: dict[str, Path], engines: dict[str, PictureEngine], name: str, tmp_path: Path
) -> None:
    made = quantised(ModelEntry(id="m", kind="embeddings", quantisation="8bit"), folders[name], tmp_path)
    inputs = ["a bird", of(IMAGE)]

    async with loaded(made) as engine:
        packed = await embed(engine, *inputs)

    assert weights_bytes(made) < 0.8 * weights_bytes(folders[name])
    assert np.all((packed * await embed(engines[name], *inputs)).sum(axis=1) > 0.999)
    assert discover(made).quantisation == "8bit"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image_token_id": 9}, r"looks for token 9, but <\|image_pad\|> is 5"),
        ({"vision_start_token_id": 9}, r"looks for token 9, but <\|vision_start\|> is 3"),
    ],
)
async def test_a_model_that_would_not_see_its_pictures_is_refused(
    tmp_path: Path, change: dict[str, int], why: str
) -> None:
    engine = PictureEngine(qwen2_vl(tmp_path / "model", **change), LIMITS)

    with pytest.raises(RefusedError, match=why):
        await engine.load()


PROGRAM = """
from actors.engines.blas import prepare_blas
prepare_blas()
import asyncio, sys
from pathlib import Path
from actors.engines.embeddings import EmbeddingLimits
from actors.engines.pictures import PictureEngine
from bus.messages.embeddings import EmbedRequest

async def main():
    engine = PictureEngine(Path(sys.argv[1]), EmbeddingLimits())
    await engine.load()
    await anext(engine.embed(engine.prepare(EmbedRequest(input=("a bird",) * 500))))
    await engine.unload()

asyncio.run(main())
print("transformers" in sys.modules)
"""


async def test_process_warms_up_and_ends_cleanly_and_never_imports_transformers(folders: dict[str, Path]) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(folders["qwen2_vl"])]

    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")
