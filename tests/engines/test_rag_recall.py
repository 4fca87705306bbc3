"""How much of what is nearest HNSW finds, at the default, among vectors of real texts where they are at hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actors.rag.config import RagConfig
from actors.rag.hnsw import HnswIndex
from actors.rag.index import ExactIndex, unit
from tests.support.vectors import clustered

_DATA = Path("/work/shared/data")


def _clustered() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return clustered(random, 5_000, dimensions=128), clustered(random, 200, dimensions=128)


def _real() -> tuple[np.ndarray, np.ndarray]:
    if not _DATA.exists():
        pytest.skip(f"{_DATA} is not here")
    return _stored("docs"), _stored("queries")


def _stored(what: str) -> np.ndarray:
    return np.vstack([np.load(_DATA / name / f"emb_{what}.f16.npy") for name in ("scifact", "cranfield")])


@pytest.mark.parametrize("vectors", [_clustered, _real])
def test_hnsw_finds_nearly_all_that_is_nearest(vectors: Callable[[], tuple[np.ndarray, np.ndarray]]) -> None:
    documents, queries = (unit(rows)[0] for rows in vectors())
    labels = np.arange(len(documents))
    exact, hnsw = ExactIndex(documents.shape[1]), HnswIndex(documents.shape[1], RagConfig().ef)
    exact.add(labels, documents)
    hnsw.add(labels, documents)

    found = [{label for label, _ in hnsw.search(query, 10)} for query in queries]
    nearest = [{label for label, _ in exact.search(query, 10)} for query in queries]

    assert np.mean([len(some & all_) / 10 for some, all_ in zip(found, nearest, strict=True)]) >= 0.98
