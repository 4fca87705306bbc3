"""mlx-lm's caches, filled."""

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, RotatingKVCache


def filled(length: int, kind: type[KVCache] | type[RotatingKVCache] = KVCache) -> list[Any]:
    """Return those of two layers that have read `length` tokens; a sliding window is of 16."""
    made = [KVCache() if kind is KVCache else RotatingKVCache(16) for _ in range(2)]
    for cache in made:
        cache.update_and_fetch(mx.ones((1, 1, length, 4)), mx.ones((1, 1, length, 4)))
    return made
