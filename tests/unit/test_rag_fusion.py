"""Rankings that are put together."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from actors.rag.fusion import convex, rrf
from actors.rag.index import Scored

labels = some.lists(some.integers(0, 30), unique=True, max_size=20)


def ranking(*labels: int) -> list[Scored]:
    """Return these labels, the best first."""
    return [Scored(label, 10.0 - place) for place, label in enumerate(labels)]


def test_ranks_are_summed_as_in_the_paper() -> None:
    found = rrf([ranking(1, 2, 3), ranking(3, 1)])

    assert found == [Scored(1, 1 / 61 + 1 / 62), Scored(3, 1 / 63 + 1 / 61), Scored(2, 1 / 62)]


def test_scores_are_scaled_within_each_ranking() -> None:
    near = [Scored(1, 0.9), Scored(2, 0.7), Scored(3, 0.5)]
    words = [Scored(3, 12.0), Scored(4, 4.0)]

    assert dict(convex([near, words])) == pytest.approx({1: 0.5, 3: 0.5, 2: 0.25, 4: 0.0})
    assert dict(convex([[Scored(7, 3.0)], []])) == {7: 0.5}


@given(some.lists(labels, max_size=4))
def test_every_label_comes_once_and_what_is_better_everywhere_is_better(each: list[list[int]]) -> None:
    rankings = [ranking(*one) for one in each]

    for fuse in (rrf, convex):
        found = fuse(rankings)
        places = {one.label: place for place, one in enumerate(found)}
        assert len(places) == len(found)
        assert places.keys() == {label for one in each for label in one}
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        assert fuse(rankings) == found
        if each and all(one[:1] == each[0][:1] for one in each) and each[0]:
            assert found[0].label == each[0][0]


@given(labels)
def test_one_ranking_keeps_its_order_and_equal_scores_theirs(each: list[int]) -> None:
    assert [one.label for one in rrf([ranking(*each)])] == each
    assert [one.label for one in convex([[Scored(label, 1.0) for label in each]])] == each


@given(labels, labels)
def test_labels_of_the_same_score_stay_as_the_first_ranking_has_them(first: list[int], second: list[int]) -> None:
    second = [label for label in second if label not in first]

    found = [one.label for one in rrf([ranking(*first), ranking(*second)])]

    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        assert found.index(one) < found.index(other), place
