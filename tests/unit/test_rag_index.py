"""The exact index and that of hnswlib: what both promise, and what hnswlib alone does not."""

from datetime import UTC, datetime

import numpy as np
import pytest

from actors.rag.collection_index import CollectionIndex
from actors.rag.hnsw import HnswIndex, UnreachableError
from actors.rag.index import ExactIndex, VectorIndex, unit
from actors.rag.snapshots import SnapshotError
from tests.support.vectors import DIMENSIONS, clustered

VECTORS = clustered(np.random.default_rng(1), 300)
# The highest labels are above what a float or 32 bits can tell apart.
LABELS = np.arange(300) + 2**62 - 299


@pytest.fixture(params=["exact", "hnsw"])
def index(request: pytest.FixtureRequest) -> VectorIndex:
    index: VectorIndex = ExactIndex(DIMENSIONS) if request.param == "exact" else HnswIndex(DIMENSIONS, ef=300)
    index.add(LABELS[:200], VECTORS[:200])
    index.add(LABELS[200:], VECTORS[200:])
    return index


def nearest(vector: np.ndarray, limit: int) -> list[int]:
    return LABELS[np.argsort(-(VECTORS @ vector))[:limit]].tolist()


def labels_of(index: VectorIndex, vector: np.ndarray, limit: int) -> list[int]:
    return [label for label, _ in index.search(vector, limit)]


def test_the_nearest_come_first_with_their_cosine(index: VectorIndex) -> None:
    found = index.search(VECTORS[299], 10)

    assert [label for label, _ in found] == nearest(VECTORS[299], 10)
    assert found[0].label == 2**62
    assert [score for _, score in found] == pytest.approx(np.sort(VECTORS @ VECTORS[299])[:-11:-1], abs=1e-6)


def test_what_was_removed_is_never_found(index: VectorIndex) -> None:
    index.remove(LABELS[::2])

    assert len(index) == index.dead == 150
    assert set(labels_of(index, VECTORS[0], 300)) == set(LABELS[1::2].tolist())


def test_removing_twice_or_what_is_not_there_changes_nothing(index: VectorIndex) -> None:
    index.remove(LABELS[:3])
    index.remove(np.array([LABELS[0], LABELS[1], LABELS[1], 5, 2**62 + 1]))

    assert (len(index), index.dead) == (297, 3)


def test_more_than_there_are_gives_those_there_are(index: VectorIndex) -> None:
    index.remove(LABELS[5:])

    assert labels_of(index, VECTORS[0], 100) == [label for label in nearest(VECTORS[0], 300) if label < LABELS[5]]


@pytest.mark.parametrize("empty", [ExactIndex(DIMENSIONS), HnswIndex(DIMENSIONS, ef=10)])
def test_an_empty_index_finds_nothing(empty: VectorIndex) -> None:
    assert empty.search(VECTORS[0], 10) == []
    assert empty.last == -1


@pytest.mark.parametrize("labels", [[2**62], [2**62 + 2, 2**62 + 1], [2**62 + 1, 2**62 + 1]])
def test_labels_that_do_not_rise_are_refused(index: VectorIndex, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="rise"):
        index.add(np.array(labels), VECTORS[: len(labels)])


def test_only_what_is_allowed_is_found(index: VectorIndex) -> None:
    allowed = np.concatenate([LABELS[100:200], [7]])

    found = [label for label, _ in index.search(VECTORS[0], 5, allowed)]

    assert found == [label for label in nearest(VECTORS[0], 300) if LABELS[100] <= label <= LABELS[199]][:5]


def test_exact_looks_behind_a_label_only_and_at_few_that_are_allowed() -> None:
    index = ExactIndex(DIMENSIONS)
    index.add(LABELS, VECTORS)

    assert {label for label, _ in index.search(VECTORS[0], 300, after=int(LABELS[289]))} == set(LABELS[290:].tolist())
    assert [label for label, _ in index.search(VECTORS[0], 5, LABELS[[7, 295]], after=int(LABELS[9]))] == [LABELS[295]]


def test_a_compacted_index_knows_which_labels_were_given() -> None:
    index = ExactIndex(DIMENSIONS)
    index.add(LABELS, VECTORS)
    index.remove(LABELS[100:])

    index.compact()

    assert (len(index), index.dead, index.last) == (100, 0, 2**62)
    assert labels_of(index, VECTORS[50], 1) == [LABELS[50]]


def test_hnsw_tells_that_too_few_are_allowed() -> None:
    index = HnswIndex(DIMENSIONS, ef=10)
    index.add(LABELS, VECTORS)

    with pytest.raises(UnreachableError):
        index.search(VECTORS[0], 10, LABELS[:3])


def test_hnsw_is_the_same_after_it_was_restored() -> None:
    index = HnswIndex(DIMENSIONS, ef=300)
    index.add(LABELS, VECTORS)
    index.remove(LABELS[:50])

    restored = HnswIndex.restored(index.state(), ef=300)
    restored.remove(LABELS[:60])

    assert (len(restored), restored.dead, restored.last) == (240, 60, 2**62)
    assert set(labels_of(restored, VECTORS[0], 300)) == set(LABELS[60:].tolist())


def test_vectors_without_a_direction_are_told_apart() -> None:
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1e-4, 0]], np.float16)

    vectors, has_direction = unit(rows)

    assert has_direction.tolist() == [True, False, False, False, True]
    assert vectors[has_direction] == pytest.approx(np.array([[0.6, 0.8], [1, 0]]))


@pytest.mark.parametrize(
    ("stored", "rows", "problem"),
    [
        (LABELS, VECTORS, "missing"),
        (LABELS[:100], VECTORS[:100], "gone"),
        (LABELS[1:250], VECTORS[2:251], "find"),
    ],
)
def test_a_graph_that_does_not_fit_what_is_stored_is_refused(
    stored: np.ndarray, rows: np.ndarray, problem: str
) -> None:
    index, graph = CollectionIndex(DIMENSIONS, None), HnswIndex(DIMENSIONS, ef=300)
    index.add(stored, rows)
    graph.add(LABELS[1:], VECTORS[1:])

    with pytest.raises(SnapshotError, match=problem):
        index.restore(graph, datetime(2026, 11, 22, tzinfo=UTC))


def test_a_graph_that_fits_is_taken_over_without_what_is_gone() -> None:
    index, graph = CollectionIndex(DIMENSIONS, None), HnswIndex(DIMENSIONS, ef=300)
    index.add(LABELS[50:], VECTORS[50:])
    graph.add(LABELS[:290], VECTORS[:290])

    index.restore(graph, datetime(2026, 11, 22, tzinfo=UTC))

    assert (index.card.kind, index.card.vectors, index.card.deleted) == ("hnsw", 250, 50)
    found = [label for label, _ in index.search(VECTORS[295], 300, None).scored]
    assert sorted(found) == LABELS[50:].tolist()
