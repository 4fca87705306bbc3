"""Keeps what a model has read, so that the next prompt that begins alike is not read again.

Lives on the engine thread. mlx-lm's LRUPromptCache is not used: it forgets by age of insertion however often
an entry is used, copies a whole entry for every hit, and does not count its tree of Python integers.
"""

import copy
from collections import OrderedDict
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import psutil
from mlx_lm.models.cache import KVCache
from numpy.typing import NDArray

from actors.engines.text_quantised_kv import QuantisedKV

Tokens = NDArray[np.int32]

# Shorter beginnings cost more to look after than to read.
_SHORTEST = 8

# All are looked at for each request: 0.2 ms for this many.
_MOST_ENTRIES = 128

_SHARE_OF_MEMORY = 0.1
_MOST_BYTES = 2 * 2**30


class Entry(NamedTuple):
    """What was read: one cache for each layer, all holding exactly `tokens`."""

    tokens: Tokens
    caches: list[Any]
    nbytes: int
    is_divisible: bool


class Prefix(NamedTuple):
    """The beginning of a prompt: `length` tokens that need not be read, as caches that the asker may keep."""

    length: int
    caches: list[Any]


class PrefixCache:
    """At most `max_bytes` of caches; the one that was not used for longest goes first. 0 keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # Oldest use first.
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._count = 0
        self.nbytes = 0

    @property
    def is_on(self) -> bool:
        """Whether anything can be kept."""
        return self._max_bytes > 0

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What is kept, least used first."""
        return tuple(self._entries.values())

    def find(self, prompt: list[int]) -> Prefix | None:
        """Return the longest known beginning of `prompt`, without its last token: something is left to be read."""
        wanted = np.array(prompt[:-1], dtype=np.int32)
        best, length = None, _SHORTEST - 1
        for key, entry in self._entries.items():
            common = _common(entry.tokens, wanted)
            if common > length and (entry.is_divisible or common == len(entry.tokens)):
                best, length = key, common
        if best is None:
            return None
        self._entries.move_to_end(best)
        return Prefix(length, _beginning(self._entries[best], length))

    def fork(self, prompt: list[int]) -> int:
        """Return where `prompt` parts from what can only be taken whole, in tokens; 0 if there is none of that.

        What was read up to there is worth keeping: two prompts began with it, so a third may.
        """
        wanted = np.array(prompt[:-1], dtype=np.int32)
        whole = (entry.tokens for entry in self._entries.values() if not entry.is_divisible)
        return max((_common(tokens, wanted) for tokens in whole), default=0)

    def put(self, tokens: list[int], caches: list[Any]) -> None:
        """Keep `caches`, which hold exactly `tokens`. What says the same, or less, goes."""
        if len(tokens) < _SHORTEST or not self.is_on:
            return
        nbytes = sum(cache.nbytes for cache in caches) + 4 * len(tokens)
        if nbytes > self._max_bytes:
            return
        entry = Entry(np.array(tokens, dtype=np.int32), caches, nbytes, is_divisible(caches))
        for key, known in list(self._entries.items()):
            common = _common(known.tokens, entry.tokens)
            if common == len(entry.tokens) and (entry.is_divisible or common == len(known.tokens)):
                self._entries.move_to_end(key)
                return
            if common == len(known.tokens) and entry.is_divisible:
                self._drop(key)
        self.trim_to(self._max_bytes - nbytes)
        if len(self._entries) == _MOST_ENTRIES:
            self._drop(next(iter(self._entries)))
        # Lazy ones would keep the whole batch alive that they were cut from.
        mx.eval([cache.state for cache in caches])
        self._entries[self._count] = entry
        self._count += 1
        self.nbytes += nbytes

    def trim_to(self, nbytes: int) -> None:
        """Forget, least used first, until at most `nbytes` are kept."""
        while self._entries and self.nbytes > nbytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: int) -> None:
        self.nbytes -= self._entries.pop(key).nbytes


def default_bytes() -> int:
    """Return how much to keep if nobody has said it: a tenth of the machine's memory, at most 2 GiB."""
    return min(int(_SHARE_OF_MEMORY * psutil.virtual_memory().total), _MOST_BYTES)


def is_divisible(caches: list[Any]) -> bool:
    """Return whether `caches` can be cut after any token."""
    return all(type(each) in (KVCache, QuantisedKV) for each in caches)


def _common(known: Tokens, wanted: Tokens) -> int:
    """Return how many tokens both begin with."""
    size = min(len(known), len(wanted))
    # Found in bytes: with numpy's argmax and any, looking at all entries took twice as long.
    first = (known[:size] != wanted[:size]).tobytes().find(1)
    return size if first < 0 else first


def _beginning(entry: Entry, length: int) -> list[Any]:
    # Sliding windows and recurrent states have forgotten how they were earlier: they are taken whole or not at all.
    if not entry.is_divisible:
        return copy.deepcopy(entry.caches)
    return [_shortened(cache, length) for cache in entry.caches]


def _shortened(cache: Any, length: int) -> Any:
    if isinstance(cache, QuantisedKV):
        return QuantisedKV(cache.quantisation, [_shortened(part, length) for part in cache.caches])
    part = KVCache()
    part.keys, part.values, part.offset = cache.keys[..., :length, :], cache.values[..., :length, :], length
    return part
