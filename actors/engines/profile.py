"""What the machine says about how much to compute at once: the device, and how much memory it has."""

import os

import mlx.core as mx
import psutil
from msgspec import Struct

_GIB = 2**30
# Each takes memory of its own for what it computes.
_MOST_STREAMS = 8


class Profile(Struct, frozen=True, kw_only=True):
    """`name` is "cpu", or "metal-32gb" and alike. `batch_tokens` are those of a batch of embeddings, with padding.

    `streams` is how many such batches one model computes at once.
    """

    name: str
    batch_tokens: int
    streams: int


def profile() -> Profile:
    """Return the profile of this machine."""
    is_cpu = mx.default_device() == mx.Device(mx.cpu)
    return profile_for(is_cpu, psutil.virtual_memory().total, _usable_cores())


def profile_for(is_cpu: bool, memory_bytes: int, cores: int) -> Profile:
    """Return the profile of a machine, of whose cores a process may use `cores`.

    On the CPU padding costs most, so little goes together, and a batch keeps one core busy: half of them compute, the
    others are for what else runs, but two compute if there are two. A GPU wants much, and a small one shares its
    memory with the weights: what a token takes while it is computed is a few hundred kilobytes in a model of 7 billion.
    """
    if is_cpu:
        streams = max(cores // 2, min(cores, 2))
        return Profile(name="cpu", batch_tokens=256, streams=min(streams, _MOST_STREAMS))
    gigabytes = round(memory_bytes / _GIB)
    return Profile(name=f"metal-{gigabytes}gb", batch_tokens=4096 if gigabytes < 32 else 8192, streams=1)


def _usable_cores() -> int:
    # macOS binds no process to some of its cores.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
