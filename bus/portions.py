"""Many items for a model, in portions that fit into messages."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

ItemT = TypeVar("ItemT")

# A message on the bus is at most 1 MB; LangChain alone sends 1000 texts of 1000 characters at once. What waits in the
# model's process is at most so much of each client, some seconds of work on a CPU.
PORTION_BYTES = 128 * 1024

_encode = msgspec.json.Encoder().encode


def portions(items: Iterable[ItemT], beside: Callable[[ItemT], int]) -> Iterator[tuple[ItemT, ...]]:
    """Yield `items` in their order, some at a time, and at least one portion.

    `beside` returns how many bytes the model reads with an item.
    """
    portion: list[ItemT] = []
    size = 0
    for item in items:
        more = len(_encode(item)) + 1 + beside(item)
        if portion and size + more > PORTION_BYTES:
            yield tuple(portion)
            portion, size = [], 0
        portion.append(item)
        size += more
    yield tuple(portion)
