"""Embeddings over HTTP: Fusion beside infinity's server, each asked for one short text after the other."""

import json
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
from aiohttp import ClientError, ClientSession, ClientTimeout
from msgspec import Struct
from numpy.typing import NDArray

from bench.embeddings_inside import ALONE, Vectors
from bench.embeddings_texts import short
from bench.figures import Figures, figures, table
from bench.load import Load, Outcome, Run, Target, run
from bench.processes import Measured, answering, started
from bus.server import free_port

OURS, PEER = "Fusion", "infinity"
MODEL = "measured"
_LEVELS = (1, 8, 32, 64)
_SECONDS = 4.0
_PATIENCE = 300.0
_COLUMNS = (
    ("requests", "texts", 0),
    ("errors", "errors", 0),
    ("requests_s", "texts/s", 1),
    ("total_p50", "p50 ms", 1),
    ("total_p95", "p95 ms", 1),
    ("cpu_per_token", "CPU ms/text", 2),
    ("rss_mb", "RSS MB", 0),
)


class Server(Struct, frozen=True):
    """A server that speaks OpenAI's embeddings; `state` is Fusion's state folder."""

    target: Target
    measured: Measured
    state: Path = Path()


class _Embedding(Struct, frozen=True):
    index: int
    embedding: bytes | tuple[float, ...]


class _Answer(Struct, frozen=True):
    data: tuple[_Embedding, ...]


_decode = msgspec.json.Decoder(_Answer).decode


async def report(fusion: Server, infinity: Server | None, *, rounds: int, order: Random) -> None:
    """Measure and print."""
    servers = [fusion, infinity] if infinity else [fusion]
    runs: dict[tuple[int, str], list[Run]] = defaultdict(list)
    cpu: dict[tuple[int, str], float] = defaultdict(float)
    rss: dict[tuple[int, str], float] = {}
    texts = _shorts(order)
    for number in range(rounds + 1):
        for at_once in _LEVELS:
            # Before the first round all levels are warmed up.
            load = Load(at_once=at_once, requests=10**6, seconds=_SECONDS if number else 0.5)
            for server in order.sample(servers, len(servers)):
                key, before = (at_once, server.target.name), server.measured.cpu_seconds()
                done = await run(server.target, load, texts, _one)
                if number:
                    runs[key].append(done)
                    cpu[key] += server.measured.cpu_seconds() - before
                    rss[key] = server.measured.rss_mb()
    found: dict[tuple[int, str], Figures] = {key: figures(each, cpu[key], rss[key]) for key, each in runs.items()}
    print(table(found, OURS, *([PEER] if infinity else []), columns=_COLUMNS) + "\n")
    for (at_once, name), known in found.items():
        if known.causes:
            print(f"- errors of {name} at {at_once}: {known.causes}")


async def embed(session: ClientSession, target: Target, texts: list[str], **fields: Any) -> Vectors:
    """Return a row for each text. Raises `ClientError` for any other answer, and `TimeoutError`."""
    body = {"model": target.model, "input": texts, **fields}
    url = f"{target.url}/v1/embeddings"
    async with session.post(url, json=body, timeout=ClientTimeout(total=_PATIENCE)) as response:
        content = await response.read()
        if response.status != 200:
            raise ClientError(f"status {response.status}: {content[:200]!r}")
    try:
        data = _decode(content).data
    except msgspec.DecodeError as error:
        raise ClientError(str(error)) from error
    if [each.index for each in data] != list(range(len(texts))):
        raise ClientError(f"{len(data)} vectors for {len(texts)} texts, or in another order")
    return np.array([_numbers(each.embedding) for each in data])


def _numbers(vector: bytes | tuple[float, ...]) -> NDArray[np.float32]:
    return np.frombuffer(vector, "<f4") if isinstance(vector, bytes) else np.array(vector, np.float32)


async def _one(session: ClientSession, target: Target, text: str) -> Outcome:
    begun = time.perf_counter()
    try:
        await embed(session, target, [text], encoding_format="base64")
    except (ClientError, TimeoutError) as error:
        return Outcome(total=time.perf_counter() - begun, error=str(error) or type(error).__name__)
    return Outcome(total=time.perf_counter() - begun, tokens=1)


def _shorts(order: Random) -> Iterator[str]:
    while True:
        yield short(order)


@asynccontextmanager
async def fusion(folder: Path, logs: Path) -> AsyncGenerator[Server]:
    """Run Fusion with this model alone, which computes each text anew."""
    port = free_port()
    config = {
        "actors": {"slots": 0, "embedding_cache_bytes": 0},
        "models": [{"id": MODEL, "path": str(folder), "kind": "embeddings", "tier": 0}],
    }
    (logs / "fusion.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML too.
    state = logs / "state"
    argv = [sys.executable, "-m", "cli", "up", "--config", str(logs / "fusion.yaml"), "--state-dir", str(state)]
    argv += ["--port", str(port), "--nats-port", str(free_port())]
    async with started(argv, logs / "fusion.log", ALONE) as measured:
        await answering(f"http://127.0.0.1:{port}/readyz")
        yield Server(Target(OURS, f"http://127.0.0.1:{port}", MODEL), measured, state)


@asynccontextmanager
async def infinity(program: str | None, folder: Path, logs: Path) -> AsyncGenerator[Server | None]:
    """Run infinity, as its users start it; without its `program` there is none."""
    if program is None:
        yield None
        return
    port = free_port()
    argv = [program, "v2", "--model-id", str(folder), "--served-model-name", MODEL, "--url-prefix", "/v1"]
    argv += ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer"]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    quiet = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    async with started(argv, logs / "infinity.log", ALONE | quiet) as measured:
        await answering(f"http://127.0.0.1:{port}/v1/models")
        yield Server(Target(PEER, f"http://127.0.0.1:{port}", MODEL), measured)
