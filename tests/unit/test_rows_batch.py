from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from actors.engines.rows_batch import Batches, Item

LENGTHS = st.lists(st.integers(1, 80), min_size=1, max_size=60)


def add(batches: Batches, request: int, lengths: list[int]) -> None:
    batches.add(request, dict(enumerate(lengths)))


def drained(batches: Batches) -> Iterator[tuple[Item, ...]]:
    while batch := batches.next():
        yield batch


@given(st.lists(LENGTHS | st.just([]), max_size=5), st.integers(1, 128), st.integers(1, 64))
def test_every_input_leaves_once_within_the_budget(requests: list[list[int]], batch_tokens: int, window: int) -> None:
    batches = Batches(batch_tokens, window)
    for number, lengths in enumerate(requests):
        add(batches, number, lengths)

    left = list(drained(batches))

    expected = {(number, index, n) for number, lengths in enumerate(requests) for index, n in enumerate(lengths)}
    assert {(item.request, item.index, item.length) for batch in left for item in batch} == expected
    assert sum(map(len, left)) == len(expected)
    for batch in left:
        assert len(batch) == 1 or len(batch) * max(item.length for item in batch) <= batch_tokens


@given(LENGTHS, LENGTHS, st.integers(0, 9))
def test_dropped_request_is_not_handed_out_any_more(kept: list[int], dropped: list[int], before: int) -> None:
    batches = Batches(64, 16)
    add(batches, 0, kept)
    add(batches, 1, dropped)
    first = [batches.next() for _ in range(before)]

    batches.drop(1)
    batches.drop(1)
    rest = list(drained(batches))

    assert all(item.request == 0 for batch in rest for item in batch)
    assert sum(item.request == 0 for batch in (*first, *rest) for item in batch) == len(kept)


@given(st.lists(st.integers(1, 64), min_size=20, max_size=60), st.integers(1, 64))
def test_one_input_beside_a_crowd_leaves_with_the_next_drain(crowd: list[int], length: int) -> None:
    batches = Batches(64, 16)
    add(batches, 0, crowd)
    batches.next()
    add(batches, 1, [length])

    order = list(drained(batches))

    ahead = next(place for place, batch in enumerate(order) if any(item.request == 1 for item in batch))
    # The rest of the drain under way, and a drain of the crowd: at most 64 tokens each.
    assert sum(item.length for batch in order[:ahead] for item in batch) <= 2 * 64


def test_query_beside_a_crowd_rides_alone_and_the_crowd_has_every_other_drain() -> None:
    batches = Batches(8, 16)
    add(batches, 0, [4] * 20)
    for number in range(1, 4):
        add(batches, number, [4, 4])

    order = [{item.request for item in batch} for batch in drained(batches)]

    assert order[:6] == [{1, 2}, {0}, {3, 1}, {0}, {2, 3}, {0}]
    assert all(batch == {0} for batch in order[6:])


def test_requests_share_a_batch_in_turn() -> None:
    batches = Batches(6, 16)
    for number in range(3):
        add(batches, number, [1] * 4)

    first, second = batches.next(), batches.next()

    assert sorted(item.request for item in first) == [0, 0, 1, 1, 2, 2]
    assert sorted(item.request for item in second) == [0, 0, 1, 1, 2, 2]


def test_like_is_padded_with_like() -> None:
    batches = Batches(64, 16)
    add(batches, 0, [2, 30, 2, 2, 2, 20])

    assert [[item.length for item in batch] for batch in drained(batches)] == [[2, 2, 2, 2], [20, 30]]


def test_input_longer_than_the_budget_goes_alone() -> None:
    batches = Batches(8, 16)
    add(batches, 0, [100, 3, 3])

    assert [[item.length for item in batch] for batch in drained(batches)] == [[3, 3], [100]]


def test_windows_leave_in_the_order_of_the_inputs() -> None:
    batches = Batches(6, 2)
    add(batches, 0, [4, 2, 3, 1])

    assert [item.index for batch in drained(batches) for item in batch] == [1, 0, 3, 2]
