"""The test sets of the benchmarks of RAG: real texts, questions, judgements, and real MiniLM vectors of both.

A folder each, such as scifact: `corpus.jsonl` {id, title, text}, `queries.jsonl` {id, text}, `qrels.jsonl`
{query_id, doc_id, score}; `emb_docs.f16.npy` and `emb_queries.f16.npy` have their rows.
"""

import os
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
LineT = TypeVar("LineT")

NAMES = ("scifact", "cranfield")
# Words of a chunk of the mixed set.
_WORDS = 100
# How much of the first of two vectors that are mixed, and how much noise.
_FIRST, _NOISE = 0.7, 0.3


class TestSet(Struct, frozen=True):
    """Documents and queries by their ids, a row of norm 1 for each, and which documents are relevant to a query."""

    documents: dict[str, str]
    vectors: Vectors
    queries: dict[str, str]
    query_vectors: Vectors
    relevant: dict[str, dict[str, float]]


class _Document(Struct):
    id: str
    title: str
    text: str


class _Query(Struct):
    id: str
    text: str


class _Judgement(Struct):
    query_id: str
    doc_id: str
    score: float


def data_folder() -> Path:
    """Return where the sets lie, unless the command line says otherwise."""
    return Path(os.environ.get("FUSION_BENCH_DATA", "../shared/data"))


def read(folder: Path) -> TestSet:
    """Return one set; its queries are those that were judged. Raises `OSError` where it is absent."""
    documents = _lines(folder / "corpus.jsonl", _Document)
    queries = _lines(folder / "queries.jsonl", _Query)
    relevant: dict[str, dict[str, float]] = {}
    for each in _lines(folder / "qrels.jsonl", _Judgement):
        if each.score > 0:
            relevant.setdefault(each.query_id, {})[each.doc_id] = each.score
    judged = [number for number, query in enumerate(queries) if query.id in relevant]
    return TestSet(
        documents={each.id: f"{each.title} {each.text}".strip() for each in documents},
        vectors=_rows(folder / "emb_docs.f16.npy"),
        queries={queries[number].id: queries[number].text for number in judged},
        query_vectors=_rows(folder / "emb_queries.f16.npy")[judged],
        relevant=relevant,
    )


def mixed(sets: list[TestSet], count: int, seed: int) -> TestSet:
    """Return so many chunks: texts of words in a row from real ones, vectors between two real ones with some noise."""
    dice = np.random.default_rng(seed)
    texts = [text.split() for each in sets for text in each.documents.values()]
    real = np.concatenate([each.vectors for each in sets])
    documents = {}
    for number, source in enumerate(dice.integers(len(texts), size=count)):
        start = int(dice.integers(max(1, len(texts[source]) - _WORDS)))
        documents[str(number)] = " ".join(texts[source][start : start + _WORDS]) or "none"
    one, other = real[dice.integers(len(real), size=count)], real[dice.integers(len(real), size=count)]
    noise = unit(dice.standard_normal(one.shape, dtype=np.float32))
    return TestSet(
        documents=documents,
        vectors=unit(_FIRST * one + (1 - _FIRST) * other + _NOISE * noise),
        queries={f"{number}-{id_}": text for number, each in enumerate(sets) for id_, text in each.queries.items()},
        query_vectors=np.concatenate([each.query_vectors for each in sets]),
        relevant={},
    )


def nearest(found: TestSet, count: int) -> list[list[str]]:
    """Return for each query the ids of the documents whose vectors are nearest, by comparing with all."""
    ids = list(found.documents)
    products = found.query_vectors @ found.vectors.T
    best = np.argpartition(-products, count, axis=1)[:, :count]
    return [[ids[number] for number in row] for row in best]


def unit(rows: Vectors) -> Vectors:
    """Return the rows with norm 1."""
    norms: Vectors = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / norms


def _rows(path: Path) -> Vectors:
    return unit(np.load(path).astype(np.float32))


def _lines(path: Path, kind: type[LineT]) -> list[LineT]:
    decode = msgspec.json.Decoder(kind).decode
    return [decode(line) for line in path.read_bytes().splitlines()]
