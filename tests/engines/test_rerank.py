import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from actors.conversion import quantised, weights_bytes
from actors.engines.rerank import RerankerEngine, RerankLimits
from actors.model_facts import discover
from bus.errors import RefusedError
from bus.messages.catalogue import ModelEntry
from bus.messages.rerank import RerankChunk, RerankRequest
from tests.support.tiny_rerankers import CROSS_ENCODERS, FAMILIES, write_reranker

QUERY = "the old bird sings"
DOCUMENTS = (
    "a bird sings in the old tree",
    "the river runs cold and fast",
    "birds",
    "the old tree and the cold river and a bird sings fast in the tree and the river runs and runs and sings",
    "cold",
)
# Made once on these folders with torch 2.13.0, transformers 5.23.0 and sentence-transformers 6.2.0: the cross-encoders
# by CrossEncoder.predict, the generative one by the code on the model card of Qwen3-Reranker.
GOLDEN = {
    "bert": (0.6616993, 0.5195407, 0.7003684, 0.5309718, 0.6324762),
    "xlm-roberta": (0.2739034, 0.2962358, 0.2814152, 0.4381282, 0.3338539),
    "modernbert": (0.2009496, 0.1232386, 0.4739743, 0.4849976, 0.4169914),
    "qwen3": (0.5967157, 0.6890510, 0.8425976, 0.1942858, 0.7867712),
}
INSTRUCTION, INSTRUCTED = "Find the song.", (0.5258032, 0.7386271, 0.5734715, 0.2718964, 0.5098752)
ROOT = Path(__file__).parents[2]
LIMITS = RerankLimits(batch_tokens=64, window=16)
on_cpu = pytest.mark.skipif(mx.metal.is_available(), reason="Metal is fast in every dtype")


@asynccontextmanager
async def loaded(path: Path, limits: RerankLimits = LIMITS) -> AsyncIterator[RerankerEngine]:
    engine = RerankerEngine(path, limits)
    await engine.load()
    try:
        yield engine
    finally:
        await engine.unload()


async def chunks_of(engine: RerankerEngine, *documents: str, **fields: Any) -> list[RerankChunk]:
    work = engine.prepare(RerankRequest(query=QUERY, documents=documents, **fields))
    async with asyncio.timeout(240), aclosing(engine.rerank(work)) as chunks:
        return [chunk async for chunk in chunks]


async def scores_of(engine: RerankerEngine, *documents: str, **fields: Any) -> list[float]:
    return [score for chunk in await chunks_of(engine, *documents, **fields) for score in chunk.scores]


async def scored(folder: Path) -> list[float]:
    async with loaded(folder) as engine:
        return await scores_of(engine, *DOCUMENTS)


@pytest.mark.parametrize("family", FAMILIES)
async def test_scores_are_those_of_torch(tmp_path: Path, family: str) -> None:
    async with loaded(write_reranker(tmp_path, family)) as engine:
        scores = await scores_of(engine, *DOCUMENTS)

    assert scores == pytest.approx(GOLDEN[family], abs=1e-5)


async def test_instruction_moves_the_scores_as_with_torch(tmp_path: Path) -> None:
    async with loaded(write_reranker(tmp_path, "qwen3")) as engine:
        scores = await scores_of(engine, *DOCUMENTS, instruction=INSTRUCTION)

    assert scores == pytest.approx(INSTRUCTED, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
async def test_files_tell_what_a_reranker_is(tmp_path: Path, family: str) -> None:
    folder = write_reranker(tmp_path / "tiny-reranker", family)
    engine = RerankerEngine(folder, RerankLimits(warmup=False))
    facts = await engine.load()
    await engine.ping()
    await engine.unload()

    discovered = discover(folder)

    assert discovered.kind == "rerank"
    assert discovered.family.replace("-", "_") == facts.family
    assert discovered.context_length == facts.context_length
    assert discovered.loaded_bytes == pytest.approx(facts.size_bytes, rel=0.02)


async def test_chunks_are_small_and_the_last_tells_the_tokens(tmp_path: Path) -> None:
    limits = RerankLimits(chunk_bytes=4 * 8)
    async with loaded(write_reranker(tmp_path, "bert"), limits) as engine:
        chunks = await chunks_of(engine, *DOCUMENTS * 20, "bird " * 100, truncate=True)

    starts = [sum(len(chunk.scores) for chunk in chunks[:number]) for number in range(len(chunks))]
    assert [chunk.start for chunk in chunks] == starts
    assert all(1 <= len(chunk.scores) <= 4 for chunk in chunks)
    assert [chunk.prompt_tokens for chunk in chunks] == [None] * (len(chunks) - 1) + [20 * 74 + 48]
    assert [chunk.truncated for chunk in chunks] == [()] * (len(chunks) - 1) + [(100,)]


async def test_requests_at_once_each_get_their_own(tmp_path: Path) -> None:
    async with loaded(write_reranker(tmp_path, "modernbert")) as engine:
        answers = await asyncio.gather(*(scores_of(engine, *DOCUMENTS[number:]) for number in range(5)))

    for number, scores in enumerate(answers):
        assert scores == pytest.approx(GOLDEN["modernbert"][number:], abs=1e-5)


async def test_high_scores_stay_apart(tmp_path: Path) -> None:
    folder = write_reranker(tmp_path, "bert")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] += np.float32(20)
    save_file(weights, folder / "model.safetensors")

    assert np.argsort(await scored(folder)).tolist() == np.argsort(GOLDEN["bert"]).tolist()


async def test_frequencies_are_read_as_either_transformers_writes_them(tmp_path: Path) -> None:
    old = {"global_rope_theta": 500.0, "local_rope_theta": 20.0}
    new = dict.fromkeys(old) | {
        "rope_parameters": {"full_attention": {"rope_theta": 500.0}, "sliding_attention": {"rope_theta": 20.0}}
    }

    scores = await scored(write_reranker(tmp_path / "old", "modernbert", **old))

    assert scores == await scored(write_reranker(tmp_path / "new", "modernbert", **new))
    assert scores != pytest.approx(GOLDEN["modernbert"], abs=1e-3)


@on_cpu
async def test_weights_are_widened_on_the_cpu(tmp_path: Path) -> None:
    file = write_reranker(tmp_path, "bert") / "model.safetensors"
    save_file({name: array.astype(np.float16) for name, array in load_file(file).items()}, file)
    engine = RerankerEngine(tmp_path, LIMITS)

    facts = await engine.load()
    await engine.unload()

    assert facts.dtype == "float32"
    assert facts.size_bytes == pytest.approx(2 * file.stat().st_size, rel=0.1)


@pytest.mark.parametrize("family", ["bert", "qwen3"])
async def test_quantised_folder_gives_the_scores_of_its_weights(tmp_path: Path, family: str) -> None:
    plain, packed = (write_reranker(tmp_path / name, family) for name in ("plain", "packed"))
    weights = mx.load(str(plain / "model.safetensors"))
    assert isinstance(weights, dict)
    layer = next(name for name in weights if name.endswith(("query.weight", "gate_proj.weight"))).removesuffix(
        ".weight"
    )
    other = next(name for name in weights if name.endswith(("key.weight", "up_proj.weight"))).removesuffix(".weight")
    how = {layer: {"group_size": 32, "bits": 8}, other: {"group_size": 64, "bits": 4}}
    unpacked = dict(weights)
    for name, options in how.items():
        weight, scales, biases = mx.quantize(weights[f"{name}.weight"], **options)
        weights |= {f"{name}.weight": weight, f"{name}.scales": scales, f"{name}.biases": biases}
        unpacked[f"{name}.weight"] = mx.dequantize(weight, scales, biases, **options)
    mx.save_safetensors(str(packed / "model.safetensors"), weights)
    mx.save_safetensors(str(plain / "model.safetensors"), unpacked)
    config = json.loads((packed / "config.json").read_text())
    said = how[other] | {layer.removeprefix("bert."): how[layer]}
    (packed / "config.json").write_text(json.dumps(config | {"quantization": said}))

    scores = await scored(packed)

    assert scores == pytest.approx(await scored(plain), abs=1e-6)
    assert scores != pytest.approx(GOLDEN[family], abs=1e-6)
    assert discover(packed).quantisation is not None


@pytest.mark.parametrize("family", FAMILIES)
async def test_reranker_is_quantised_and_gives_nearly_the_same_scores(tmp_path: Path, family: str) -> None:
    folder = write_reranker(tmp_path / "tiny-reranker", family)

    made = quantised(ModelEntry(id="m", kind="rerank", quantisation="8bit"), folder, tmp_path)

    assert weights_bytes(made) < weights_bytes(folder) / 2
    assert await scored(made) == pytest.approx(GOLDEN[family], abs=0.04)
    assert (discover(made).kind, discover(made).quantisation) == ("rerank", "8bit")


@pytest.mark.parametrize("family", CROSS_ENCODERS)
async def test_folder_without_its_head_is_not_served(tmp_path: Path, family: str) -> None:
    file = write_reranker(tmp_path, family) / "model.safetensors"
    save_file({name: array for name, array in load_file(file).items() if "classifier" not in name}, file)

    with pytest.raises(ValueError, match="classifier"):
        await RerankerEngine(tmp_path, LIMITS).load()


async def test_unloaded_engine_refuses(tmp_path: Path) -> None:
    async with loaded(write_reranker(tmp_path, "bert")) as engine:
        work = engine.prepare(RerankRequest(query=QUERY, documents=DOCUMENTS))

    with pytest.raises(RefusedError, match="not loaded"):
        engine.prepare(RerankRequest(query=QUERY, documents=DOCUMENTS))
    with pytest.raises(RefusedError, match="not loaded"):
        async with aclosing(engine.rerank(work)) as chunks:
            await anext(chunks)


PROGRAM = """
import asyncio, sys
from pathlib import Path
from actors.engines.blas import prepare_blas
prepare_blas()
from actors.conversion import quantised, weights_bytes
from actors.engines.rerank import RerankerEngine, RerankLimits
from bus.messages.catalogue import ModelEntry
from bus.messages.rerank import RerankRequest

async def main():
    for folder in sys.argv[1:]:
        engine = RerankerEngine(Path(folder), RerankLimits())
        await engine.load()
        async for chunk in engine.rerank(engine.prepare(RerankRequest(query="a", documents=("b",)))):
            print(len(chunk.scores))
        await engine.unload()

asyncio.run(main())
print("transformers" in sys.modules)
"""


def test_process_ends_cleanly_and_never_imports_transformers(tmp_path: Path) -> None:
    folders = [str(write_reranker(tmp_path / family, family)) for family in FAMILIES]

    command = [sys.executable, "-W", "error", "-c", PROGRAM, *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n" * 4 + "False\n", "")
