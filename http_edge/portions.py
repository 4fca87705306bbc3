"""What a model refuses of a portion (bus/portions.py), told as the client knows it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bus.errors import RefusedError


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
