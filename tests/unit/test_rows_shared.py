from hypothesis import given
from hypothesis import strategies as st

from actors.engines.rows_shared import Asker, SharedResults

# A result of 100 bytes takes 400.
RESULT = b"x" * 100


def known(shared: SharedResults, *keys: str) -> set[str]:
    found, _ = shared.ask(0, keys)
    shared.leave(0, keys)
    return {keys[index] for index in found}


def test_rows_alike_are_queued_once_a_request_and_all_are_told() -> None:
    shared = SharedResults(0)

    first = shared.ask(1, ["a", "b", "a"])
    second = shared.ask(2, ["b", "c"])

    assert (first, second) == (({}, (0, 1)), ({}, (0, 1)))
    assert shared.arrived("a", RESULT) == [Asker(1, 0), Asker(1, 2)]
    assert shared.arrived("b", RESULT) == [Asker(1, 1), Asker(2, 0)]
    assert [shared.is_wanted(key) for key in "abc"] == [False, False, True]


def test_who_leaves_is_not_told_and_the_others_are() -> None:
    shared = SharedResults(0)
    shared.ask(1, ["a", "b"])
    shared.ask(2, ["a"])

    shared.leave(1, ["a", "b"])
    shared.leave(1, ["a", "b"])

    assert not shared.is_wanted("b")
    assert shared.arrived("a", RESULT) == [Asker(2, 0)]
    assert shared.arrived("b", RESULT) == []


def test_the_least_recently_used_gives_way() -> None:
    shared = SharedResults(3 * 400)
    for key in "abc":
        shared.arrived(key, RESULT)
    known(shared, "a")

    shared.arrived("d", RESULT)

    assert known(shared, *"abcd") == set("acd")


def test_nothing_is_kept_without_room_nor_once_forgotten() -> None:
    without, with_room = SharedResults(0), SharedResults(400)
    for shared in (without, with_room):
        shared.arrived("a", RESULT)

    with_room.forget()
    with_room.arrived("b", RESULT)

    assert (known(without, "a"), known(with_room, "a", "b")) == (set(), {"b"})


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 900))), st.integers(0, 3000))
def test_what_is_kept_stays_within_its_bytes_and_is_what_came_last(
    arrivals: list[tuple[str, int]], keep_bytes: int
) -> None:
    shared = SharedResults(keep_bytes)
    for key, size in arrivals:
        shared.arrived(key, b"x" * size)

    found, _ = shared.ask(0, "abcdef")

    last = dict(arrivals)
    assert all(len(result) == last["abcdef"[index]] for index, result in found.items())
    assert sum(len(result) + 300 for result in found.values()) <= keep_bytes
