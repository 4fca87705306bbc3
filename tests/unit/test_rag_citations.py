"""Marks in an answer, found while it is written."""

import itertools

from hypothesis import given
from hypothesis import strategies as some

from actors.rag.citations import Citations
from bus.messages.rag import Citation, Hit


def hit(number: int) -> Hit:
    return Hit(
        chunk_id=f"d{number}_chunk_0",
        document_id=f"d{number}",
        collection="default",
        text="x",
        score=1.0,
        start=number,
        end=number + 5,
        pages=(number, number),
    )


SOURCES = {number: hit(number) for number in (1, 2, 12)}


def read(*pieces: str) -> tuple[list[Citation], list[int]]:
    """Return what is found in these pieces, and the numbers that are no sources."""
    citations = Citations(SOURCES)
    found = [one for piece in pieces for one in citations.feed(piece)]
    assert found == citations.found
    return found, citations.unknown


def places(found: list[Citation]) -> list[tuple[int, int, int]]:
    return [(one.number, one.answer_start, one.answer_end) for one in found]


def test_marks_of_all_kinds_are_found_at_their_places() -> None:
    text = "Birds sing [1]. Rivers run [1, 2][12]; trees [ 2;12 ] grow[2]."

    found, unknown = read(text)

    assert [(one.number, text[one.answer_start : one.answer_end]) for one in found] == [
        (1, "[1]"),
        (1, "[1, 2]"),
        (2, "[1, 2]"),
        (12, "[12]"),
        (2, "[ 2;12 ]"),
        (12, "[ 2;12 ]"),
        (2, "[2]"),
    ]
    assert unknown == []
    assert (found[0].chunk_id, found[0].document_id, found[0].start, found[0].end, found[0].pages) == (
        ("d1_chunk_0", "d1", 1, 6, (1, 1))
    )


def test_numbers_that_are_no_sources_are_counted() -> None:
    found, unknown = read("Fish [3] swim [1, 99], and [0] [a] [1.5] [] [-1] [١].")

    assert places(found) == [(1, 14, 21)]
    assert unknown == [3, 99, 0]


def test_a_citation_is_told_as_soon_as_its_mark_ends() -> None:
    citations = Citations(SOURCES)

    told = [[one.number for one in citations.feed(piece)] for piece in ("So [", "1", ",", " 2", "] it is [", "2]")]

    assert told == [[], [], [], [], [1, 2], [2]]


@given(some.text("[]12, ;a\n", max_size=60), some.lists(some.integers(0, 60), max_size=8))
def test_it_does_not_matter_where_the_pieces_end(text: str, ends: list[int]) -> None:
    cuts = [0, *sorted(min(end, len(text)) for end in ends), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(cuts)]

    assert read(*pieces) == read(text)
