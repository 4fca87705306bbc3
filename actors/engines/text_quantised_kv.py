"""Keeps keys and values quantised: with 4 bits a text takes about a quarter of the memory of half precision.

mlx-lm's QuantizedKVCache is of one text, and cannot become part of a batch.
"""

from collections.abc import Sequence
from math import gcd
from typing import Any, NamedTuple, Self

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, make_prompt_cache

from bus.errors import RefusedError

# Those of mx.quantize that are worth it, the smallest in memory first.
_GROUP_SIZES = (64, 32)

# Packed numbers, scales and biases.
_PARTS = 3


class Quantisation(NamedTuple):
    """Numbers of so many `bits`, with one scale and one bias for `group_size` of them."""

    bits: int
    group_size: int


class QuantisedKV:
    """What one layer has read, of one row or of a batch: has what mlx-lm asks of its caches, but inherits nothing.

    Each of the parts that mx.quantize returns lies in one of `caches`, which are mlx-lm's own, for a row or for a
    batch: they pad, shift and cut along the tokens only, so it is the same to them what the numbers mean.
    """

    def __init__(self, quantisation: Quantisation, caches: Sequence[Any] | None = None) -> None:
        self.quantisation = quantisation
        # By these two, mlx-lm's attention tells a quantised cache.
        self.bits, self.group_size = quantisation
        self.caches = tuple(caches or (KVCache() for _ in range(_PARTS)))

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[tuple[mx.array, ...], tuple[mx.array, ...]]:
        """Add tokens, of shape (rows, heads, tokens, width), and return the parts of all keys and of all values."""
        quantised = [mx.quantize(each, self.group_size, self.bits) for each in (keys, values)]
        parts = zip(*quantised, strict=True)
        fetched = [cache.update_and_fetch(*part) for cache, part in zip(self.caches, parts, strict=True)]
        all_keys, all_values = zip(*fetched, strict=True)
        return all_keys, all_values

    def make_mask(self, *args: Any, **kwargs: Any) -> Any:
        """Return which tokens the next ones see. The padding is that of every part."""
        return self.caches[0].make_mask(*args, **kwargs)

    @property
    def offset(self) -> Any:
        """The number of tokens read: an int, or an array of them for a batch."""
        return self.caches[0].offset

    @property
    def state(self) -> list[Any]:
        """All arrays."""
        return [cache.state for cache in self.caches]

    @property
    def nbytes(self) -> int:
        """What the arrays take, with the room to grow."""
        return sum(cache.nbytes for cache in self.caches)

    def size(self) -> int:
        """Return the number of tokens of the longest row."""
        return int(self.caches[0].size())

    def empty(self) -> bool:
        """Return whether nothing was read."""
        return bool(self.caches[0].empty())

    def is_trimmable(self) -> bool:
        """Return that any number of tokens can be forgotten."""
        return True

    def trim(self, n: int) -> int:
        """Forget the last `n` tokens, and return how many they were."""
        return min(int(cache.trim(n)) for cache in self.caches)

    @classmethod
    def merge(cls, caches: Sequence[Self]) -> Self:
        """Return rows as a batch."""
        parts = zip(*(cache.caches for cache in caches), strict=True)
        return cls(caches[0].quantisation, [part[0].merge(part) for part in parts])

    def extract(self, idx: int) -> Self:
        """Return one row of a batch."""
        return type(self)(self.quantisation, [cache.extract(idx) for cache in self.caches])

    def extend(self, other: Self) -> None:
        """Add the rows of another batch."""
        for own, its in zip(self.caches, other.caches, strict=True):
            own.extend(its)

    def filter(self, batch_indices: Any) -> None:
        """Keep these rows of a batch."""
        for cache in self.caches:
            cache.filter(batch_indices)

    def prepare(self, **kwargs: Any) -> None:
        """Expect tokens with padding."""
        for cache in self.caches:
            cache.prepare(**kwargs)

    def finalize(self) -> None:
        """Move the padding that was expected, and has come, to the left."""
        for cache in self.caches:
            cache.finalize()


def quantise_kv(model: Module, bits: int) -> Quantisation:
    """Have `model` make caches of so many `bits` from now on, with the largest groups that fit.

    Raises `RefusedError` if it cannot work with them. mlx is lazy: this asks for shapes and computes nothing.
    """
    plain = make_prompt_cache(model)
    if not all(type(cache) is KVCache for cache in plain):
        raise _refusal("not all of its layers keep the keys and values of every token")
    model(mx.array([[0]]), cache=plain)
    widths = sorted({array.shape[-1] for cache in plain for array in (cache.keys, cache.values)})
    fitting = [size for size in _GROUP_SIZES if gcd(*widths) % size == 0]
    if not fitting:
        raise _refusal(f"the size of its heads, {widths[0]}, is no multiple of {_GROUP_SIZES[-1]}")
    quantisation = Quantisation(bits, fitting[0])

    def make_cache() -> list[QuantisedKV]:
        return [QuantisedKV(quantisation) for _ in plain]

    try:
        model(mx.array([[0, 0]]), cache=[QuantisedKV.merge([cache]) for cache in make_cache()])
    except Exception as error:  # Models fail in many ways with what is no array.
        raise _refusal("its attention cannot work with quantised keys and values") from error
    model.make_cache = make_cache
    return quantisation


def in_parts(caches: list[Any]) -> list[Any]:
    """Return `caches` as mlx-lm's own, which it can save: a quantised one as its parts."""
    return [part for cache in caches for part in (cache.caches if isinstance(cache, QuantisedKV) else (cache,))]


def from_parts(parts: list[Any], quantisation: Quantisation) -> list[QuantisedKV]:
    """Return the quantised caches that were put into `parts`."""
    return [QuantisedKV(quantisation, parts[at : at + _PARTS]) for at in range(0, len(parts), _PARTS)]


def _refusal(reason: str) -> RefusedError:
    message = f"With `kv_bits`, this model cannot be served: {reason}."
    return RefusedError("unsupported_parameter", message, param="kv_bits")
