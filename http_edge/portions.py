"""Many texts in portions that fit into messages."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

ItemT = TypeVar("ItemT")

# A message on the bus is at most 1 MB; LangChain alone sends 1000 texts of 1000 characters at once.
PORTION_BYTES = 512 * 1024


def portions(items: Iterable[ItemT], room: int = PORTION_BYTES) -> Iterator[tuple[ItemT, ...]]:
    """Yield `items` in their order, at most `room` bytes at a time unless one alone is more; one portion at least."""
    portion: list[ItemT] = []
    size = 0
    for item in items:
        more = size_of(item) + 1
        if portion and size + more > room:
            yield tuple(portion)
            portion, size = [], 0
        portion.append(item)
        size += more
    yield tuple(portion)


def size_of(item: Any) -> int:
    """Return how many bytes `item` is in a message."""
    return len(_encode(item))


_encode = msgspec.json.Encoder().encode
