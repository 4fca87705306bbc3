"""What the machine says about how much to compute at once: the device, and how much memory it has."""

import mlx.core as mx
import psutil
from msgspec import Struct

_GIB = 2**30


class Profile(Struct, frozen=True, kw_only=True):
    """`name` is "cpu", or "metal-32gb" and alike. `batch_tokens` are those of a batch of embeddings, with padding."""

    name: str
    batch_tokens: int


def profile() -> Profile:
    """Return the profile of this machine."""
    return profile_for(mx.default_device() == mx.Device(mx.cpu), psutil.virtual_memory().total)


def profile_for(is_cpu: bool, memory_bytes: int) -> Profile:
    """Return the profile of a machine.

    On the CPU padding costs most, so little goes together. A GPU wants much, and a small one shares its memory with the
    weights: what a token takes while it is computed is a few hundred kilobytes in a model of 7 billion weights.
    """
    if is_cpu:
        return Profile(name="cpu", batch_tokens=256)
    gigabytes = round(memory_bytes / _GIB)
    return Profile(name=f"metal-{gigabytes}gb", batch_tokens=4096 if gigabytes < 32 else 8192)
