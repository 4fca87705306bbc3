"""A page of a list: behind some item, and not larger than a message may be."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from bus.errors import RefusedError

T = TypeVar("T", bound=msgspec.Struct)

_MOST_BYTES = 512 * 1024


def page(items: Sequence[T], id_of: Callable[[T], str], *, after: str | None, limit: int) -> tuple[tuple[T, ...], bool]:
    """Return those of `items` behind the one with the id `after`, at most `limit`, and whether others follow.

    There are fewer if a message could not hold them. Raises `RefusedError` when there is no item `after`.
    """
    begin = behind([id_of(item) for item in items], after)
    found: list[T] = []
    room = _MOST_BYTES
    for item in items[begin : begin + limit]:
        room -= len(msgspec.json.encode(item))
        if room < 0 and found:
            break
        found.append(item)
    return tuple(found), begin + len(found) < len(items)


def behind(ids: Sequence[str], after: str | None) -> int:
    """Return where what follows the item `after` begins. Raises `RefusedError` when there is no such item."""
    if after is None:
        return 0
    if after not in ids:
        raise RefusedError("invalid_request", f"There is no item {after[:80]!r}.", param="after")
    return ids.index(after) + 1
