"""Many texts for a model, in portions that fit into messages."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from bus.errors import RefusedError

ItemT = TypeVar("ItemT")

# A message on the bus is at most 1 MB; LangChain alone sends 1000 texts of 1000 characters at once. What waits in the
# model's process is at most so much of each client, some seconds of work on a CPU.
_PORTION_BYTES = 128 * 1024


def portions(items: Iterable[ItemT], beside: int = 0) -> Iterator[tuple[ItemT, ...]]:
    """Yield `items` in portions that are not much, with `beside` more bytes read for each; there is always one."""
    portion: list[ItemT] = []
    size = 0
    for item in items:
        more = len(_encode(item)) + 1 + beside
        if portion and size + more > _PORTION_BYTES:
            yield tuple(portion)
            portion, size = [], 0
        portion.append(item)
        size += more
    yield tuple(portion)


@contextmanager
def numbered_from(first: int, name: str) -> Iterator[None]:
    """Give refused items of the list `name` the numbers that they have in the client's, where a portion begins."""
    try:
        yield
    except RefusedError as error:
        failure = error.failure
        numbered = re.match(rf"{name}\[(\d+)\]", failure.param or "")
        if numbered is None or not first:
            raise
        param = f"{name}[{first + int(numbered[1])}]"
        message, named = (text.replace(numbered[0], param) for text in (failure.message, failure.param or ""))
        raise RefusedError(failure.code, message, param=named, retry_after=failure.retry_after) from error


_encode = msgspec.json.Encoder().encode
