"""How fast RAG takes chunks in and finds them, beside Chroma and LanceDB: `python -m bench.rag_speed`.

All have the same texts and the same vectors, and graphs with the same parameters. Fusion is asked as a whole, over NATS
and over HTTP; the others are libraries, and are asked in the process that has them. Nobody embeds anything.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import psutil
from aiohttp import ClientSession
from msgspec import Struct

from bench.figures import percentile
from bench.processes import machine
from bench.rag_fusion import Fusion, Given, fusion
from bench.rag_sets import NAMES, TestSet, data_folder, mixed, nearest, read
from bus.messages.rag import Mode, SearchDocuments, SearchResults
from bus.process import run_until_stopped
from bus.subjects import SEARCH_DOCUMENTS

_COLLECTION = "speed"
_CHUNKS_PER_DOCUMENT = 100
_FOUND = 10
_MODES: tuple[Mode, ...] = ("dense", "bm25", "hybrid")
_HEAD = ("system", "mode", "p50 ms", "p95 ms", "CPU ms", "recall@10", "chunks/s", "RSS MB")
_PEER_PATIENCE = 3600.0
# Percent of a core.
_AT_REST = 10.0

# Returns what is found by the query with this number.
Ask = Callable[[int], Awaitable[list[str]]]


class _Asked(Struct, frozen=True):
    """What came of the queries; `cpu_seconds` is what the process that has the index took for all of them."""

    seconds: list[float]
    cpu_seconds: float
    hits: list[list[str]]


class _System(Struct, frozen=True):
    ingest_seconds: float
    rss_mb: float
    modes: dict[str, _Asked]


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.rag_speed", description=__doc__)
    parser.add_argument("--data", type=Path, default=data_folder(), help="the folder of the sets; FUSION_BENCH_DATA")
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--chroma", help="the Python that has chromadb, to measure it too")
    parser.add_argument("--lancedb", help="the Python that has lancedb, to measure it too")
    parser.add_argument("--seed", type=int, default=1, help="of the mixes")
    args = parser.parse_args()
    if not args.data.is_dir():
        sys.exit(f"{args.data} is not there; --data or FUSION_BENCH_DATA names the folder of the sets.")
    run_until_stopped(lambda: _report(args))


async def _report(args: argparse.Namespace) -> None:
    chunks = mixed([read(args.data / name) for name in NAMES], args.chunks, args.seed)
    truth = nearest(chunks, _FOUND)
    print(f"{machine()}; {args.chunks} chunks, {len(chunks.queries)} queries\n")
    with TemporaryDirectory(prefix="fusion-bench-") as name:
        systems = {"Fusion": await _ours(Path(name), chunks)}
        _print([_HEAD, ["---"] * len(_HEAD), *_rows("Fusion", systems["Fusion"], args.chunks, truth)])
        for peer, python in (("chroma", args.chroma), ("lancedb", args.lancedb)):
            if python:
                systems[peer] = await _peer(peer, python, Path(name), chunks)
                _print(_rows(peer, systems[peer], args.chunks, truth))
    print(*_ratios(systems), sep="\n")


def _print(rows: Iterable[Sequence[str]]) -> None:
    print(*(f"| {' | '.join(row)} |" for row in rows), sep="\n", flush=True)


async def _ours(folder: Path, chunks: TestSet) -> _System:
    async with fusion(folder) as running, ClientSession(running.url) as http:
        seconds = await running.ingest(_documents(chunks), _COLLECTION)
        begun = time.perf_counter()
        await _at_rest(running)
        seconds_of_graph = time.perf_counter() - begun
        print(f"stored and found after {seconds:.0f} s, in the graph {seconds_of_graph:.0f} s later", flush=True)
        ways = {str(mode): _by_nats(running, chunks, mode) for mode in _MODES}
        ways["hybrid, HTTP"] = _by_http(http, chunks)
        modes = {name: await _asked(ask, len(chunks.queries), running.rag) for name, ask in ways.items()}
        return _System(seconds + seconds_of_graph, running.rag.memory_info().rss / 1e6, modes)


async def _at_rest(running: Fusion) -> None:
    """Return when all vectors are in the graph: the process has nothing to do any more."""
    process = running.rag
    process.cpu_percent()
    while True:
        await asyncio.sleep(2)
        if process.cpu_percent() < _AT_REST:
            return


def _documents(chunks: TestSet) -> Iterator[Given]:
    texts = list(chunks.documents.values())
    for first in range(0, len(texts), _CHUNKS_PER_DOCUMENT):
        some = slice(first, first + _CHUNKS_PER_DOCUMENT)
        yield Given(str(first), texts[some], chunks.vectors[some])


def _by_nats(running: Fusion, chunks: TestSet, mode: Mode) -> Ask:
    queries, vectors = list(chunks.queries.values()), chunks.query_vectors.tolist()

    async def ask(number: int) -> list[str]:
        request = SearchDocuments(
            query=queries[number], collections=(_COLLECTION,), top_k=_FOUND, mode=mode, embedding=vectors[number]
        )
        return _numbers(await running.bus.ask(SEARCH_DOCUMENTS(), request, patience=60))

    return ask


def _by_http(http: ClientSession, chunks: TestSet) -> Ask:
    queries, vectors = list(chunks.queries.values()), chunks.query_vectors.tolist()

    async def ask(number: int) -> list[str]:
        body = {"query": queries[number], "collection": _COLLECTION, "top_k": _FOUND, "embedding": vectors[number]}
        async with http.post("/api/rag/search", json=body) as response:
            response.raise_for_status()
            await response.read()
        return []

    return ask


def _numbers(results: SearchResults) -> list[str]:
    """Return the numbers of the chunks in the set; a document is named by its first."""
    return [str(int(hit.document_id) + int(hit.chunk_id.rpartition("_")[2])) for hit in results.hits]


async def _asked(ask: Ask, count: int, process: psutil.Process) -> _Asked:
    await ask(0)
    seconds, hits = [], []
    before = process.cpu_times()
    for number in range(count):
        begun = time.perf_counter()
        hits.append(await ask(number))
        seconds.append(time.perf_counter() - begun)
    after = process.cpu_times()
    return _Asked(seconds, after.user + after.system - before.user - before.system, hits)


async def _peer(peer: str, python: str, folder: Path, chunks: TestSet) -> _System:
    for name, rows in (("vectors", chunks.vectors), ("query_vectors", chunks.query_vectors)):
        np.save(folder / f"{name}.npy", rows)
    for name, texts in (("texts", chunks.documents), ("queries", chunks.queries)):
        (folder / f"{name}.json").write_text(json.dumps(list(texts.values())), encoding="utf-8")
    worker = str(Path(__file__).with_name("rag_peer.py"))
    process = await asyncio.create_subprocess_exec(python, worker, peer, str(folder), stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(_PEER_PATIENCE):
        out, _ = await process.communicate()
    return msgspec.json.decode(out.splitlines()[-1], type=_System)


def _rows(name: str, system: _System, count: int, truth: list[list[str]]) -> Iterator[tuple[str, ...]]:
    for mode, asked in system.modes.items():
        times = tuple(f"{percentile(asked.seconds, percent) * 1000:.1f}" for percent in (50, 95))
        recall = f"{_recall(asked.hits, truth):.4f}" if mode == "dense" else ""
        cpu = f"{asked.cpu_seconds / len(asked.seconds) * 1000:.1f}"
        yield (name, mode, *times, cpu, recall, f"{count / system.ingest_seconds:.0f}", f"{system.rss_mb:.0f}")


def _recall(hits: list[list[str]], truth: list[list[str]]) -> float:
    found = sum(len(set(some) & set(all_)) for some, all_ in zip(hits, truth, strict=True))
    return found / sum(map(len, truth))


def _ratios(systems: dict[str, _System]) -> Iterator[str]:
    """Say by how much the others' times are ours, mode by mode, and how fast they are filled."""
    ours = systems["Fusion"]
    for name, peer in systems.items():
        if peer is ours:
            continue
        yield f"- Fusion's ingest rate over that of {name}: {peer.ingest_seconds / ours.ingest_seconds:.2f}"
        for mode, asked in peer.modes.items():
            shown = [
                f"p{percent} {percentile(ours.modes[mode].seconds, percent) / percentile(asked.seconds, percent):.2f}"
                for percent in (50, 95)
            ]
            shown.append(f"CPU {ours.modes[mode].cpu_seconds / asked.cpu_seconds:.2f}")
            yield f"- Fusion's {mode} over that of {name}: {', '.join(shown)}"


if __name__ == "__main__":
    main()
