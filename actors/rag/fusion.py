"""Puts several rankings together into one. Pure.

Each ranking has a label once, the best first. Labels of the same score stay in the order in which they were met: that
of the first ranking, then that of the second, and so on.
"""

from collections.abc import Sequence

from actors.rag.index import Scored

# The constant of the paper.
_K = 60
# Of each ranking; two of them weigh the same.
_WEIGHT = 0.5


def rrf(rankings: Sequence[Sequence[Scored]]) -> list[Scored]:
    """Return the labels by the sum of 1 / (60 + rank), where ranks begin with 1.

    Reciprocal rank fusion: Cormack, Clarke and Büttcher, SIGIR 2009.
    """
    return _summed([[Scored(one.label, 1 / (_K + rank)) for rank, one in enumerate(each, 1)] for each in rankings])


def convex(rankings: Sequence[Sequence[Scored]]) -> list[Scored]:
    """Return the labels by half the sum of their scores, which are brought to 0 to 1 within each ranking.

    A label that a ranking does not have counts 0 there. Convex combination after min-max normalisation: Bruch, Gai and
    Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023.
    """
    return _summed([_scaled(each) for each in rankings])


def _scaled(ranking: Sequence[Scored]) -> list[Scored]:
    if not ranking:
        return []
    highest, lowest = ranking[0].score, ranking[-1].score
    # Where all are alike, all are the best.
    width = highest - lowest
    return [Scored(one.label, _WEIGHT * ((one.score - lowest) / width if width else 1.0)) for one in ranking]


def _summed(rankings: Sequence[Sequence[Scored]]) -> list[Scored]:
    sums: dict[int, float] = {}
    for ranking in rankings:
        for one in ranking:
            sums[one.label] = sums.get(one.label, 0.0) + one.score
    found = [Scored(label, score) for label, score in sums.items()]
    return sorted(found, key=lambda one: one.score, reverse=True)
