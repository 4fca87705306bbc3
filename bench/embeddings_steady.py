"""A hundred clients at once for minutes, then a query beside a large ingest: what goes wrong, and what memory does."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from itertools import cycle, islice
from random import Random

import numpy as np
import psutil
from aiohttp import ClientError, ClientSession, TCPConnector
from msgspec import Struct, field

from bench.embeddings_http import Server, embed
from bench.embeddings_inside import Vectors, Worker, rows
from bench.embeddings_texts import any_length, how_many, short
from bench.figures import percentile
from bench.load import Target
from cli.state import read_running

_CLIENTS = 100
# About as many as are under way at once, so that few are asked for by two clients at the same time.
_TEXTS = 1000
_INGEST = 5000
_QUERIES = 100
# Often enough that memory that grows is told from memory that has reached its level.
_LOOKS = 6
_NEAR = 0.9999


class Outcome(Struct):
    """What became of the requests. A vector is wrong if it is not near that of its text computed alone."""

    requests: int = 0
    texts: int = 0
    wrong: int = 0
    least: float = 1.0
    errors: Counter[str] = field(default_factory=Counter)
    totals: list[float] = field(default_factory=list)


class Crowd:
    """The clients, who all take their texts from one supply: texts whose vectors are `known`."""

    def __init__(self, target: Target, known: Mapping[str, Vectors], order: Random) -> None:
        self.outcome = Outcome()
        self._target = target
        self._known = known
        self._supply = cycle(known)
        self._order = order

    async def run(self, session: ClientSession, until: float) -> None:
        """Be one client: send one request after the other, at least one and none after `until`."""
        await self.send(session)
        while time.perf_counter() < until:
            await self.send(session)

    async def send(self, session: ClientSession) -> None:
        """Send one request."""
        outcome, begun = self.outcome, time.perf_counter()
        texts = list(islice(self._supply, how_many(self._order)))
        wire = self._order.choice(("float", "base64"))
        try:
            vectors = await embed(session, self._target, texts, truncate=True, encoding_format=wire)
        except (ClientError, TimeoutError) as error:
            outcome.errors[str(error) or type(error).__name__] += 1
            return
        cosines = (vectors * np.concatenate([self._known[text] for text in texts])).sum(axis=1)
        outcome.requests += 1
        outcome.texts += len(texts)
        outcome.wrong += int((cosines < _NEAR).sum())
        outcome.least = min(outcome.least, float(cosines.min()))
        outcome.totals.append(time.perf_counter() - begun)


async def report(fusion: Server, worker: Worker, *, seconds: float, order: Random) -> None:
    """Measure and print."""
    texts = [any_length(order) for _ in range(_TEXTS)]
    known = {text: rows((await worker.embed([text])).vectors, 1) for text in texts}
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        idle = await _queries(session, fusion, _shorts(order, _QUERIES))
        begun, memory = time.perf_counter(), {"idle": _memory(fusion)}
        crowd = Crowd(fusion.target, known, order)
        async with asyncio.TaskGroup() as group:
            for _ in range(_CLIENTS):
                group.create_task(crowd.run(session, begun + seconds))
            for look in range(1, _LOOKS + 1):
                await asyncio.sleep(begun + seconds * look / _LOOKS - time.perf_counter())
                memory[f"{seconds * look / _LOOKS:.0f} s"] = _memory(fusion)
        _print_outcome(crowd.outcome, time.perf_counter() - begun)
        beside = await _beside(session, fusion, order)
        memory["after the ingest"] = _memory(fusion)
    print("\n" + _memory_table(memory) + "\n")
    print(_queries_table(idle, beside) + "\n")


async def _beside(session: ClientSession, fusion: Server, order: Random) -> list[float]:
    """Return what queries took while so many texts were embedded for somebody else."""
    begun = time.perf_counter()
    ingest = asyncio.create_task(embed(session, fusion.target, _shorts(order, _INGEST), encoding_format="base64"))
    taken: list[float] = []
    while not ingest.done():
        taken += await _queries(session, fusion, _shorts(order, 1))
    await ingest
    print(f"- {_INGEST} short texts in one request took {time.perf_counter() - begun:.1f} s")
    return taken[:-1]  # The ingest ended during the last one.


async def _queries(session: ClientSession, fusion: Server, texts: list[str]) -> list[float]:
    """Return what each text took by itself, one after the other, in milliseconds."""
    taken = []
    for text in texts:
        begun = time.perf_counter()
        await embed(session, fusion.target, [text], encoding_format="base64")
        taken.append((time.perf_counter() - begun) * 1000)
    return taken


def _shorts(order: Random, count: int) -> list[str]:
    return [short(order) for _ in range(count)]


def _memory(fusion: Server) -> dict[str, float]:
    """Return the resident memory of each process, in MB."""
    running = read_running(fusion.state)
    processes = {"fusion up": running.pid, **running.processes}
    return {name: psutil.Process(pid).memory_info().rss / 1e6 for name, pid in processes.items()}


def _print_outcome(outcome: Outcome, seconds: float) -> None:
    errors = sum(outcome.errors.values())
    print(
        f"- {_CLIENTS} clients, {seconds:.0f} s: {outcome.requests} requests with {outcome.texts} texts"
        f" ({outcome.texts / seconds:.0f} texts/s, p50 {percentile(outcome.totals, 50):.1f} s,"
        f" p95 {percentile(outcome.totals, 95):.1f} s), {errors} errors, {outcome.wrong} wrong or misplaced vectors,"
        f" least cosine to one computed alone {outcome.least:.7f}"
    )
    for cause, count in outcome.errors.items():
        print(f"- {count} times: {cause}")


def _memory_table(memory: dict[str, dict[str, float]]) -> str:
    lines = [f"| RSS MB | {' | '.join(memory)} |", "| --- " * (len(memory) + 1) + "|"]
    for name in memory["idle"]:
        told = (f"{each[name]:.0f}" for each in memory.values())
        lines.append(f"| {name} | {' | '.join(told)} |")
    return "\n".join(lines)


def _queries_table(idle: list[float], beside: list[float]) -> str:
    lines = ["| one short text | queries | p50 ms | p95 ms |", "| --- " * 4 + "|"]
    figures = [(len(taken), percentile(taken, 50), percentile(taken, 95)) for taken in (idle, beside)]
    for name, (count, *known) in zip(("idle", "beside the ingest"), figures, strict=True):
        lines.append(f"| {name} | {count} | " + " | ".join(f"{each:.1f}" for each in known) + " |")
    (_, *before), (_, *after) = figures
    lines.append("| *ratio* |  | " + " | ".join(f"*{b / a:.1f}*" for a, b in zip(before, after, strict=True)) + " |")
    return "\n".join(lines)
