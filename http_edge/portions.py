"""Many texts for a model, in portions that fit into messages."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from bus.errors import RefusedError

ItemT = TypeVar("ItemT")

# A message on the bus is at most 1 MB; LangChain alone sends 1000 texts of 1000 characters at once. What waits in the
# model's process is at most so much of each client, some seconds of work on a CPU.
PORTION_BYTES = 128 * 1024


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


@contextmanager
def naming(name: Callable[[str], str], too_large: str | None = None) -> Iterator[None]:
    """Have refusals name the field at fault as `name` turns what the model calls it, such as `input[0]`.

    `too_large` is what the model calls what makes a message too large.
    """
    try:
        yield
    except RefusedError as error:
        failure = error.failure
        said = failure.param or (too_large if failure.code == "too_large" else None)
        param = None if said is None else name(said)
        message = failure.message.replace(said, param) if said and param and "[" in said else failure.message
        raise RefusedError(failure.code, message, param=param, retry_after=failure.retry_after) from error


@contextmanager
def numbered_from(first: int, field: str, too_large: str | None = None) -> Iterator[None]:
    """Give refused items the numbers that they have in the client's list `field`, where theirs begin with `first`.

    `too_large` is what makes a message too large, if it is no item.
    """

    def renumbered(param: str) -> str:
        found = re.fullmatch(rf"{field}\[(\d+)\](.*)", param, re.DOTALL)
        return f"{field}[{first + int(found[1])}]{found[2]}" if found else param

    with naming(renumbered, too_large=too_large or f"{field}[0]"):
        yield


_encode = msgspec.json.Encoder().encode
