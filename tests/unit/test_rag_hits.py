"""What was found fits into a message."""

import msgspec
from hypothesis import given
from hypothesis import strategies as some

from actors.rag.hits import fitted
from bus.messages.rag import Hit, Passage, SearchResults, SearchSeconds

_BESIDE = 16 * 1024


def results(*sizes: tuple[int, int]) -> SearchResults:
    """Return hits of so many characters, with sections of so many around them."""
    hits = [
        Hit(
            chunk_id=f"d_chunk_{number}",
            document_id="d",
            collection="default",
            text="x" * size,
            score=1.0,
            start=0,
            end=size,
            parent=Passage(text="y" * parent, start=0, end=parent) if parent else None,
        )
        for number, (size, parent) in enumerate(sizes)
    ]
    return SearchResults(hits=tuple(hits), seconds=SearchSeconds())


def test_what_fits_is_left_as_it_is() -> None:
    given = results((100, 200), (100, 0))

    assert fitted(given, _BESIDE + 2000) == given


def test_sections_go_before_hits_do() -> None:
    found = fitted(results((100, 900), (100, 900), (100, 0)), _BESIDE + 2000)

    assert [(hit.chunk_id, hit.parent is not None) for hit in found.hits] == [
        ("d_chunk_0", True),
        ("d_chunk_1", False),
        ("d_chunk_2", False),
    ]
    assert found.warnings == ("The sections around 1 hits do not fit into a message.",)


def test_the_first_hits_stay() -> None:
    found = fitted(results((900, 0), (900, 0), (900, 0)), _BESIDE + 2400)

    assert [hit.chunk_id for hit in found.hits] == ["d_chunk_0", "d_chunk_1"]
    assert found.warnings == ("Only 2 of 3 hits fit into a message.",)


@given(some.lists(some.tuples(some.integers(1, 2000), some.integers(0, 2000)), max_size=8), some.integers(500, 9000))
def test_what_is_left_always_fits(sizes: list[tuple[int, int]], room: int) -> None:
    found = fitted(results(*sizes), _BESIDE + room)

    assert len(msgspec.json.encode(found)) <= _BESIDE + room
