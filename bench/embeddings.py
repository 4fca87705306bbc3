"""Embeddings beside sentence-transformers and infinity, on one model folder: `python -m bench.embeddings [FOLDER]`."""

import argparse
import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from actors.catalogue import local_path
from bench import embeddings_exits, embeddings_http, embeddings_inside, embeddings_steady
from bench.embeddings_http import fusion, infinity
from bench.embeddings_inside import OURS, working
from bench.processes import machine
from bus.process import run_until_stopped

_PARTS = ("inside", "http", "steady", "exits")


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.embeddings", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="the model's folder; unsaid, all-MiniLM-L6-v2")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    parser.add_argument("--peer-python", help="the Python that has sentence-transformers, to measure it too")
    parser.add_argument("--infinity", help="the program of infinity_emb, to measure it too")
    parser.add_argument("--rounds", type=int, default=5, help="in process")
    parser.add_argument("--loops", type=int, default=2, help="rounds over HTTP")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the steady load")
    parser.add_argument("--exits", type=int, default=50, help="of the model's process")
    parser.add_argument("--seed", type=int, default=1, help="of the texts and of the order of the servers")
    args = parser.parse_args()
    args.folder = args.folder or local_path("embedded:minilm")
    run_until_stopped(lambda: _report(args))


async def _report(args: argparse.Namespace) -> None:
    order = Random(args.seed)  # noqa: S311 - texts and an order, no secrets
    print(machine() + "\n")
    with TemporaryDirectory(prefix="fusion-bench-") as name:
        logs = Path(name)
        if "inside" in args.parts:
            await embeddings_inside.report(args.folder, args.peer_python, args.rounds, order)
        if {"http", "steady"} & set(args.parts):
            await _over_http(args, logs, order)
        if "exits" in args.parts:
            await embeddings_exits.report(args.folder, logs, exits=args.exits, order=order)


async def _over_http(args: argparse.Namespace, logs: Path, order: Random) -> None:
    async with fusion(args.folder, logs) as ours:
        if "http" in args.parts:
            async with infinity(args.infinity, args.folder, logs) as peer:
                await embeddings_http.report(ours, peer, rounds=args.loops, order=order)
        if "steady" in args.parts:
            async with working(sys.executable, OURS, args.folder) as worker:
                await embeddings_steady.report(ours, worker, seconds=args.seconds, order=order)


if __name__ == "__main__":
    main()
