"""How well documents were found, against values computed by hand."""

import pytest

from actors.rag.evaluation import Measures, measures


def test_measures_are_those_computed_by_hand() -> None:
    # Of three relevant ones the second and fourth places have two: (1/log2(3) + 1/log2(5)) / (1 + 1/log2(3) + 1/2).
    found = measures(["a", "b", "c", "d", "e"], {"b", "d", "x"}, 5)

    assert found == pytest.approx(Measures(0.4982, 2 / 3, 1 / 2), abs=1e-4)


def test_only_the_first_places_count_also_for_what_is_ideal() -> None:
    relevant = {"a", "b", "c"}

    assert measures(["a", "b", "x", "c"], relevant, 2) == pytest.approx(Measures(1.0, 2 / 3, 1.0))
    assert measures(["x", "a"], relevant, 1) == Measures(0.0, 0.0, 0.0)
    assert measures([], relevant, 10) == Measures(0.0, 0.0, 0.0)
