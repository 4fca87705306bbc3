"""Fusion's engine beside sentence-transformers, each in a process of its own, without a server."""

import asyncio
import json
import os
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from statistics import median

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from actors.engines.profile import profile
from bench.embeddings_texts import LOADS
from bench.processes import Measured

Vectors = NDArray[np.float32]

OURS, PEER = "Fusion", "sentence-transformers"

# The peers have as many threads as Fusion has streams, of one thread each, and nobody asks a hub.
ALONE = {
    "OMP_NUM_THREADS": str(profile().streams),
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
_PATIENCE = 180.0
_LONGEST_LINE = 64 * 2**20


class Loaded(Struct, frozen=True, kw_only=True):
    """What the weights were expected to take before they were loaded, and what they took; 0 if nobody tells."""

    estimated_bytes: int = 0
    taken_bytes: int = 0


class Taken(Struct, frozen=True, kw_only=True):
    """What some texts took, and their vectors: little-endian float32, one after the other."""

    seconds: float
    cpu_seconds: float
    vectors: bytes


class Worker:
    """A library that has loaded the model."""

    def __init__(self, process: asyncio.subprocess.Process, loaded: Loaded) -> None:
        self.loaded = loaded
        self.measured = Measured(process.pid)
        self._process = process

    async def embed(self, texts: Sequence[str]) -> Taken:
        """Embed `texts` together. Raises `msgspec.DecodeError` if the process has ended."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(json.dumps(texts).encode() + b"\n")
        return msgspec.json.decode(await _line(self._process), type=Taken)


class Inside(Struct, frozen=True):
    """What was measured: for each load and library a `Taken` of each round, and of each load the least cosine."""

    taken: Mapping[tuple[str, str], Sequence[Taken]]
    cosines: Mapping[str, float]


async def report(folder: Path, peer_python: str | None, rounds: int, order: Random) -> None:
    """Measure and print."""
    with_peer = [(PEER, peer_python)] if peer_python else []
    async with AsyncExitStack() as stack:
        workers = {
            name: await stack.enter_async_context(working(python, name, folder))
            for name, python in ((OURS, sys.executable), *with_peer)
        }
        print(_table(await _measure(workers, rounds, order), peer_python is not None) + "\n")
        for name, worker in workers.items():
            print(f"- {name} takes {worker.measured.rss_mb():.0f} MB of memory.")
        loaded = workers[OURS].loaded
    expected, taken = loaded.estimated_bytes, loaded.taken_bytes
    print(f"- The weights were expected to take {expected:,} bytes and took {taken:,} ({taken / expected - 1:+.4%}).")


async def _measure(workers: Mapping[str, Worker], rounds: int, order: Random) -> Inside:
    taken: dict[tuple[str, str], list[Taken]] = defaultdict(list)
    cosines: dict[str, float] = {}
    for number in range(rounds + 1):
        for load, texts_of in LOADS.items():
            texts = texts_of(order)
            done = {name: await workers[name].embed(texts) for name in order.sample(list(workers), len(workers))}
            if number == 0:  # To warm up.
                continue
            for name, each in done.items():
                taken[load, name].append(each)
            ours, *others = (rows(done[name].vectors, len(texts)) for name in workers)
            least = min((float((ours * other).sum(axis=1).min()) for other in others), default=1.0)
            cosines[load] = min(least, cosines.get(load, 1.0))
    return Inside(taken, cosines)


def rows(content: bytes, count: int) -> Vectors:
    """Return `content` as a row for each of `count` texts."""
    return np.frombuffer(content, "<f4").reshape(count, -1)


@asynccontextmanager
async def working(python: str, name: str, folder: Path) -> AsyncGenerator[Worker]:
    """Have the library `name` load the model, and end its process with the block."""
    process = await asyncio.create_subprocess_exec(
        python,
        "-m",
        "bench.embeddings_worker",
        name,
        str(folder),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | ALONE,
        limit=_LONGEST_LINE,
    )
    try:
        yield Worker(process, msgspec.json.decode(await _line(process), type=Loaded))
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    async with asyncio.timeout(_PATIENCE):
        return await process.stdout.readline()


def _table(found: Inside, with_peer: bool) -> str:
    """Return a Markdown table: for each load the least and the median time, and the CPU time."""
    names = (OURS, PEER) if with_peer else (OURS,)
    heads = [f"{name} {what}" for name in names for what in ("min ms", "median ms", "CPU ms")]
    rows = [["load", *heads, *(("times as fast: min", "median", "CPU", "least cosine") if with_peer else ())]]
    rows.append(["---"] * len(rows[0]))
    for load in LOADS:
        row = [load, *(f"{ms:.1f}" for name in names for ms in _milliseconds(found.taken[load, name]))]
        if with_peer:
            ours, peers = (_milliseconds(found.taken[load, name]) for name in names)
            row += [f"*{peer / our:.2f}*" for our, peer in zip(ours, peers, strict=True)]
            row.append(f"{found.cosines[load]:.7f}")
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _milliseconds(taken: Sequence[Taken]) -> tuple[float, float, float]:
    seconds = [each.seconds * 1000 for each in taken]
    return min(seconds), median(seconds), median(each.cpu_seconds * 1000 for each in taken)
