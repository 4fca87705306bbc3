import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.layers.quantized import quantize
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from actors.engines.embeddings import EmbeddingEngine, EmbeddingLimits
from actors.engines.embeddings_model import VectorModel
from bus.errors import RefusedError
from bus.messages.embeddings import EmbedRequest
from tests.support.embeddings import chunks_of, embed
from tests.support.tiny_bert import VOCABULARY, WORDS, Floats, hidden_states, write_json, write_tiny_bert

ROOT = Path(__file__).parents[2]
LIMITS = EmbeddingLimits(batch_tokens=64, window=16)


@asynccontextmanager
async def loaded(path: Path, limits: EmbeddingLimits = LIMITS) -> AsyncIterator[EmbeddingEngine]:
    engine = EmbeddingEngine(path, limits)
    await engine.load()
    try:
        yield engine
    finally:
        await engine.unload()


def mixed_texts(count: int, longest: int = 40) -> list[str]:
    random = np.random.default_rng(7)
    return [" ".join(random.choice(WORDS[:12], size)) for size in random.integers(1, longest, count)]


def unit(vector: Floats) -> Floats:
    return vector / np.linalg.norm(vector)


async def test_load_tells_the_facts(tmp_path: Path) -> None:
    engine = EmbeddingEngine(write_tiny_bert(tmp_path), LIMITS)

    facts = await engine.load()
    await engine.ping()
    await engine.unload()

    assert (facts.family, facts.context_length, facts.dimensions, facts.dtype) == ("bert", 48, 64, "float32")
    # The rest of the file is its header.
    assert 0 < (tmp_path / "model.safetensors").stat().st_size - facts.size_bytes < 8192


@pytest.mark.skipif(mx.metal.is_available(), reason="Metal is fast in every dtype")
async def test_weights_are_widened_on_the_cpu(tmp_path: Path) -> None:
    file = write_tiny_bert(tmp_path) / "model.safetensors"
    save_file({name: array.astype(np.float16) for name, array in load_file(file).items()}, file)
    engine = EmbeddingEngine(tmp_path, LIMITS)

    facts = await engine.load()
    await engine.unload()

    assert facts.dtype == "float32"
    assert facts.size_bytes > 1.9 * (file.stat().st_size - 8192)


async def test_engine_without_warmup_serves_too(tmp_path: Path) -> None:
    async with loaded(write_tiny_bert(tmp_path), EmbeddingLimits(warmup=False)) as engine:
        assert (await embed(engine, "a bird sings")).shape == (1, 64)


def pooled_mean(states: Floats) -> Floats:
    return np.asarray(states.mean(axis=0))


def pooled_cls(states: Floats) -> Floats:
    return np.asarray(states[0])


def pooled_max(states: Floats) -> Floats:
    return np.asarray(states.max(axis=0))


def pooled_last(states: Floats) -> Floats:
    return np.asarray(states[-1])


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("mean_tokens", pooled_mean),
        ("cls_token", pooled_cls),
        ("max_tokens", pooled_max),
        ("lasttoken", pooled_last),
    ],
)
@pytest.mark.parametrize("is_normalised", [True, False])
async def test_vectors_are_pooled_as_declared_and_in_order(
    tmp_path: Path, pooling: str, pooled: Callable[[Floats], Floats], is_normalised: bool
) -> None:
    texts = mixed_texts(40)

    async with loaded(write_tiny_bert(tmp_path, pooling=pooling, is_normalised=is_normalised)) as engine:
        rows = engine.prepare(EmbedRequest(input=tuple(texts))).rows
        vectors = await embed(engine, *texts)

    expected = [pooled(hidden_states(tmp_path, tuple(row.ids.tolist()))) for row in rows]
    if is_normalised:
        expected = [unit(vector) for vector in expected]
    assert np.abs(vectors - np.array(expected)).max() < 1e-4


async def test_cls_pooled_folder_differs_from_a_mean_pooled_one(tmp_path: Path) -> None:
    found = []
    for pooling in ("cls_token", "mean_tokens"):
        async with loaded(write_tiny_bert(tmp_path / pooling, pooling=pooling)) as engine:
            found.append(await embed(engine, "a bird sings in the old tree"))

    assert (found[0] @ found[1].T).item() < 0.95


@pytest.mark.parametrize(
    ("pooling", "pooled"), [("mean_tokens", pooled_mean), ("cls_token", pooled_cls), ("max_tokens", pooled_max)]
)
async def test_prompt_is_not_pooled_where_the_folder_says_so(
    tmp_path: Path, pooling: str, pooled: Callable[[Floats], Floats]
) -> None:
    declared = {f"pooling_mode_{pooling}": True, "include_prompt": False}
    write_json(write_tiny_bert(tmp_path, pooling=pooling) / "1_Pooling" / "config.json", declared)

    async with loaded(tmp_path) as engine:
        work = engine.prepare(EmbedRequest(input=("a bird", "sings"), prompt="the old "))
        found = [np.frombuffer(vector, "<f4") async for chunk in engine.embed(work) for vector in chunk.vectors]

    # The token at the start and the two of the prompt are read and not pooled.
    expected = [unit(pooled(hidden_states(tmp_path, tuple(row.ids.tolist()))[3:])) for row in work.rows]
    assert np.abs(np.array(found) - np.array(expected)).max() < 1e-4


async def test_vectors_are_cut_where_asked_and_kept_whole(tmp_path: Path) -> None:
    limits = EmbeddingLimits(cache_bytes=10**6, matryoshka_dimensions=(16,))
    async with loaded(write_tiny_bert(tmp_path), limits) as engine:
        short = engine.prepare(EmbedRequest(input=("a bird", "word " * 99), dimensions=16, truncate=True))
        chunks = [chunk async for chunk in engine.embed(short)]
        whole = await embed(engine, "a bird", "word " * 99)

    vectors = np.array([np.frombuffer(vector, "<f4") for chunk in chunks for vector in chunk.vectors])
    assert whole.shape == (2, 64)
    assert np.abs(vectors - np.array([unit(vector[:16]) for vector in whole])).max() < 1e-6
    assert [number for chunk in chunks for number in chunk.truncated] == [1]


async def test_token_ids_give_the_vector_of_their_text(tmp_path: Path) -> None:
    ids = tuple(VOCABULARY.index(word) for word in ("the", "river", "##s", "runs"))

    async with loaded(write_tiny_bert(tmp_path)) as engine:
        vectors = await embed(engine, "The rivers runs", ids)

    assert np.array_equal(vectors[0], vectors[1])


async def test_chunks_are_small_and_the_last_tells_the_tokens(tmp_path: Path) -> None:
    texts = mixed_texts(100)

    async with loaded(write_tiny_bert(tmp_path), EmbeddingLimits(chunk_bytes=4 * 64 * 4)) as engine:
        chunks = await chunks_of(engine, *texts)
        prompt_tokens = engine.prepare(EmbedRequest(input=tuple(texts))).prompt_tokens

    starts = [sum(len(chunk.vectors) for chunk in chunks[:number]) for number in range(len(chunks))]
    assert [chunk.start for chunk in chunks] == starts
    assert all(1 <= len(chunk.vectors) <= 4 for chunk in chunks)
    assert [chunk.prompt_tokens for chunk in chunks] == [None] * (len(chunks) - 1) + [prompt_tokens]


async def test_one_text_beside_a_crowd_is_ready_long_before_it(tmp_path: Path) -> None:
    crowd = mixed_texts(2000)
    events: list[str] = []

    async def ask_for_many(engine: EmbeddingEngine) -> None:
        async with aclosing(engine.embed(engine.prepare(EmbedRequest(input=tuple(crowd))))) as chunks:
            async for chunk in chunks:
                events.extend("crowd" for _ in chunk.vectors)

    async with asyncio.timeout(240), loaded(write_tiny_bert(tmp_path)) as engine:
        many = asyncio.create_task(ask_for_many(engine))
        while not events:
            await engine.ping()
        for _ in range(3):
            await embed(engine, "a bird sings")
            events.append("one")
        await many

    assert events.count("one") == 3
    last = len(events) - events[::-1].index("one")
    assert last < len(crowd) / 4


async def test_concurrent_requests_each_get_their_own(tmp_path: Path) -> None:
    texts = mixed_texts(60)

    async with loaded(write_tiny_bert(tmp_path)) as engine:
        alone = [await embed(engine, text) for text in texts]
        together = await asyncio.gather(*(embed(engine, *texts[n : n + n % 4 + 1]) for n in range(56)))

    for number, vectors in enumerate(together):
        expected = np.concatenate(alone[number : number + number % 4 + 1])
        assert np.abs(vectors - expected).max() < 1e-5


async def test_closed_request_leaves_nothing_behind(tmp_path: Path) -> None:
    async with loaded(write_tiny_bert(tmp_path)) as engine:
        async with aclosing(engine.embed(engine.prepare(EmbedRequest(input=tuple(mixed_texts(2000)))))) as chunks:
            first = await anext(chunks)

        assert len(first.vectors) < 2000
        assert engine._rows._batches.next() == ()
        assert engine._rows._jobs == {}
        assert (await embed(engine, "a bird sings")).shape == (1, 64)


async def test_cancelled_request_leaves_nothing_behind(tmp_path: Path) -> None:
    async with asyncio.timeout(240), loaded(write_tiny_bert(tmp_path)) as engine:
        task = asyncio.create_task(embed(engine, *mixed_texts(500)))
        while not engine._rows._jobs:
            await engine.ping()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert engine._rows._batches.next() == ()
        assert engine._rows._jobs == {}


async def test_unload_ends_requests_under_way(tmp_path: Path) -> None:
    engine = EmbeddingEngine(write_tiny_bert(tmp_path), LIMITS)
    await engine.load()
    work = engine.prepare(EmbedRequest(input=tuple(mixed_texts(2000))))
    async with asyncio.timeout(240):
        task = asyncio.create_task(embed(engine, *mixed_texts(2000)))
        while not engine._rows._jobs:
            await engine.ping()

    await engine.unload()

    with pytest.raises(RefusedError):
        await task
    with pytest.raises(RefusedError):
        engine.prepare(EmbedRequest(input=("a",)))
    with pytest.raises(RefusedError):
        await anext(engine.embed(work))


async def test_quantised_folder_gives_nearly_the_same_vectors(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path / "plain", seed=1)
    write_tiny_bert(tmp_path / "quantised", seed=1)
    texts = mixed_texts(8)

    async with loaded(tmp_path / "plain") as engine:
        plain = await embed(engine, *texts)
        assert isinstance(engine._rows._model, VectorModel)
        await engine._rows._threads[0].call(write_quantised, engine._rows._model._model, tmp_path / "quantised")
    async with loaded(tmp_path / "quantised") as engine:
        quantised = await embed(engine, *texts)

    assert not np.array_equal(plain, quantised)
    assert (plain * quantised).sum(axis=1).min() > 0.999


def write_quantised(model: Any, path: Path) -> None:
    quantize(model, group_size=32, bits=8)
    mx.save_safetensors(str(path / "model.safetensors"), dict(tree_flatten(model.parameters())))
    config: dict[str, Any] = json.loads((path / "config.json").read_text())
    write_json(path / "config.json", {**config, "quantization": {"group_size": 32, "bits": 8}})


async def test_folder_with_weights_of_another_shape_ends_the_thread(tmp_path: Path) -> None:
    config = json.loads((write_tiny_bert(tmp_path) / "config.json").read_text())
    write_json(tmp_path / "config.json", {**config, "hidden_size": 32})
    engine = EmbeddingEngine(tmp_path, LIMITS)

    with pytest.raises(ValueError, match="shape"):
        await engine.load()

    assert not any(thread._thread.is_alive() for thread in engine._rows._threads)


PROGRAM = """
from actors.engines.blas import prepare_blas
prepare_blas()
import asyncio, sys
from pathlib import Path
from actors.engines.embeddings import EmbeddingEngine, EmbeddingLimits
from actors.engines.embeddings_model import VectorModel
from bus.messages.embeddings import EmbedRequest

async def main():
    engine = EmbeddingEngine(Path(sys.argv[1]), EmbeddingLimits())
    await engine.load()
    work = engine.prepare(EmbedRequest(input=("a bird",) * 500))
    await anext(engine.embed(work))
    await engine.unload()

asyncio.run(main())
print("transformers" in sys.modules)
"""


def run(program: str, *arguments: str) -> Sequence[object]:
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stdout, done.stderr


def test_process_ends_cleanly_and_never_imports_transformers(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path)

    assert run(PROGRAM, str(tmp_path)) == (0, "False\n", "")
