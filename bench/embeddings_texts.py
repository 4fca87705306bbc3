"""The texts that embedding models are measured with: drawn from common words, so that no cache knows them."""

import math
from collections.abc import Callable
from random import Random

_COMMON = """
the a old new river garden house city winter summer morning letter music bridge window market teacher doctor
engine ship train station forest mountain island harbour library kitchen bread coffee water light paper
runs opens carries finds writes reads crosses follows leaves remembers repairs measures answers waits
slowly quickly often never always under over beside between because although before after with without
and or not seven twelve hundred northern quiet bright heavy empty broken useful different several every
"""
_WORDS = _COMMON.split()
_SHORT = (5, 20)
_LONG = 400


def short(order: Random) -> str:
    """Return a text of 5 to 20 words."""
    return _of(order, order.randint(*_SHORT))


def any_length(order: Random) -> str:
    """Return a text of 1 to 400 words; half of them have up to 5."""
    return _of(order, _skewed(order, _LONG))


def how_many(order: Random) -> int:
    """Return a number of texts for a request: 1 to 64; half of them are up to 3."""
    return _skewed(order, 64)


# What is embedded at a time. MiniLM reads 256 tokens, so that all of L1 and much of M32 is cut there.
LOADS: dict[str, Callable[[Random], list[str]]] = {
    "S1": lambda order: [short(order)],
    "S8": lambda order: [short(order) for _ in range(8)],
    "S32": lambda order: [short(order) for _ in range(32)],
    "S128": lambda order: [short(order) for _ in range(128)],
    "L1": lambda order: [_of(order, _LONG)],
    "M32": lambda order: [_of(order, order.randint(_SHORT[0], _LONG)) for _ in range(32)],
}


def _of(order: Random, words: int) -> str:
    return " ".join(order.choices(_WORDS, k=words))


def _skewed(order: Random, most: int) -> int:
    return round(math.pow(most, order.random() ** 2))
