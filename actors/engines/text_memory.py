"""How much memory the texts of a batch take, and how much they may."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

import mlx.core as mx
import psutil
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache

# mlx-lm's caches grow by so many tokens at a time.
_STEP = 256

# While a batch grows, its old arrays and its new ones are there together.
_SHARE_OF_FREE_MEMORY = 0.5


class _Layers(NamedTuple):
    """Layers that keep at most `window` tokens, and what they take for each."""

    token_bytes: int
    window: int


class KvCost(NamedTuple):
    """What rows cost: `row_bytes` each, and so much for each token in `layers`."""

    layers: tuple[_Layers, ...]
    row_bytes: int

    def of(self, rows: int, tokens: int) -> int:
        """Return the bytes that `rows` take of which the longest has `tokens`: each is padded to it."""
        return rows * (
            self.row_bytes + sum(each.token_bytes * _padded(min(tokens, each.window)) for each in self.layers)
        )

    def most_tokens(self, kv_bytes: int, context_length: int) -> int:
        """Return the length, at most `context_length`, of the longest row that fits into `kv_bytes` alone."""
        return bisect_right(range(1, context_length + 1), kv_bytes, key=lambda tokens: self.of(1, tokens))


def kv_cost(model: Module, context_length: int) -> KvCost:
    """Return what the rows of `model` cost. mlx is lazy: this asks for shapes and computes nothing."""
    caches = make_prompt_cache(model)
    model(mx.array([[0]]), cache=caches)
    per_window: dict[int, int] = {}
    row_bytes = 0
    for cache in _flat(caches):
        keys = getattr(cache, "keys", None)
        if keys is None:
            row_bytes += cache.nbytes
        else:
            window = getattr(cache, "max_size", None) or context_length
            per_window[window] = per_window.get(window, 0) + cache.nbytes // keys.shape[2]
    return KvCost(tuple(_Layers(size, window) for window, size in per_window.items()), row_bytes)


def default_kv_bytes() -> int:
    """Return how much texts may take if nobody has said it: half of what the weights have left free."""
    return int(_SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available)


def _flat(caches: list[Any]) -> Iterator[Any]:
    for cache in caches:
        yield from getattr(cache, "caches", (cache,))


def _padded(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP
