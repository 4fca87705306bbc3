"""Decides which inputs go through a model together. Knows lengths only: no tokens and no mlx."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct


class Item(Struct, frozen=True):
    """One input: number `index` of a request, and its length in tokens."""

    request: int
    index: int
    length: int


class Batches:
    """The inputs that wait, and the rule by which they leave.

    1. Small requests, of which no more than `batch_tokens` tokens wait, and large ones have their drains by turns.
       So a query rides in a batch that is not filled up with the texts of an ingest, and neither waits for long.
    2. Drain: take one input of each such request in turn, until the next would exceed `batch_tokens` tokens,
       padding not counted. So one input leaves soon, however many a neighbour has.
    3. Sort the drained by length. So like is padded with like.
    4. Cut before the input with which a batch would exceed `batch_tokens` tokens, padding counted.
    5. Hand out the batches, shortest inputs first; drain again when none is left.

    An input longer than `batch_tokens` is a batch of its own. Inputs of one request queue up in windows of
    `window`, each sorted by length: the vectors come out nearly in order although neighbours are alike.
    """

    def __init__(self, batch_tokens: int, window: int) -> None:
        self._batch_tokens = batch_tokens
        self._window = window
        self._waiting: dict[int, deque[Item]] = {}
        self._tokens: dict[int, int] = {}
        self._was_small = False
        self._turns: deque[int] = deque()
        self._drained: deque[tuple[Item, ...]] = deque()

    def add(self, request: int, lengths: Mapping[int, int]) -> None:
        """Queue inputs of a request, with the length of each, under a number not in use. Without any, do nothing."""
        if not lengths:
            return
        items = [Item(request, index, length) for index, length in lengths.items()]
        self._waiting[request] = deque(_in_windows(items, self._window))
        self._tokens[request] = sum(lengths.values())
        self._turns.append(request)

    def drop(self, request: int) -> None:
        """Forget what has not left of a request. Doing so twice is harmless."""
        if self._waiting.pop(request, None) is not None:
            self._turns.remove(request)
            del self._tokens[request]
        kept = (tuple(item for item in batch if item.request != request) for batch in self._drained)
        self._drained = deque(batch for batch in kept if batch)

    def next(self) -> tuple[Item, ...]:
        """Take the next batch; empty if nothing waits."""
        if not self._drained:
            drained = sorted(self._drain(self._next_turns()), key=lambda item: item.length)  # 3
            self._drained.extend(_cut(drained, self._batch_tokens))  # 4
        return self._drained.popleft() if self._drained else ()  # 5

    def _next_turns(self) -> deque[int]:  # 1
        small = deque(request for request in self._turns if self._tokens[request] <= self._batch_tokens)
        large = deque(request for request in self._turns if self._tokens[request] > self._batch_tokens)
        self._was_small = bool(small) and not (self._was_small and large)
        return small if self._was_small else large

    def _drain(self, turns: deque[int]) -> Iterator[Item]:  # 2
        room = self._batch_tokens
        while turns:
            request = turns.popleft()
            items = self._waiting[request]
            if items[0].length > room and room < self._batch_tokens:
                return
            item = items.popleft()
            room -= item.length
            yield item
            self._tokens[request] -= item.length
            self._turns.remove(request)
            if items:
                turns.append(request)
                self._turns.append(request)
            else:
                del self._waiting[request], self._tokens[request]


def _in_windows(items: Sequence[Item], window: int) -> Iterator[Item]:
    for start in range(0, len(items), window):
        yield from sorted(items[start : start + window], key=lambda item: item.length)


def _cut(ascending: Iterable[Item], batch_tokens: int) -> Iterator[tuple[Item, ...]]:
    batch: list[Item] = []
    for item in ascending:
        if batch and item.length * (len(batch) + 1) > batch_tokens:
            yield tuple(batch)
            batch = []
        batch.append(item)
    if batch:
        yield tuple(batch)
