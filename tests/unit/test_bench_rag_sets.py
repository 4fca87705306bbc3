"""The test sets of the benchmarks of RAG, as they lie in a folder."""

import json
from pathlib import Path

import numpy as np

from bench.rag_sets import mixed, nearest, read


def test_set_has_the_judged_queries_with_their_own_vectors(tmp_path: Path) -> None:
    found = read(write(tmp_path))

    assert found.documents == {"a": "Birds A heron eats fish.", "b": "Rivers run.", "c": "none"}
    assert found.queries == {"q2": "what runs?"}
    assert found.relevant == {"q2": {"b": 1.0}}
    assert nearest(found, 1) == [["b"]]
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1)


def test_mix_has_so_many_chunks_of_norm_one_and_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    found = read(write(tmp_path))

    one, again, other = (mixed([found], 50, seed) for seed in (1, 1, 2))

    assert len(one.documents) == len(one.vectors) == 50
    assert all(one.documents.values())
    assert np.allclose(np.linalg.norm(one.vectors, axis=1), 1)
    assert np.array_equal(one.vectors, again.vectors)
    assert not np.array_equal(one.vectors, other.vectors)


def write(folder: Path) -> Path:
    """Write a set of three documents and two queries, of which nobody judged the first."""
    lines = {
        "corpus": [
            {"id": "a", "title": "Birds", "text": "A heron eats fish."},
            {"id": "b", "title": "", "text": "Rivers run."},
            {"id": "c", "title": "", "text": "none"},
        ],
        "queries": [{"id": "q1", "text": "who?"}, {"id": "q2", "text": "what runs?"}],
        "qrels": [{"query_id": "q2", "doc_id": "b", "score": 1}, {"query_id": "q1", "doc_id": "a", "score": 0}],
    }
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    np.save(folder / "emb_docs.f16.npy", np.array([[1, 0], [0, 2], [1, 1]], np.float16))
    np.save(folder / "emb_queries.f16.npy", np.array([[1, 0], [0.1, 1]], np.float16))
    return folder
