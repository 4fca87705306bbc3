"""Embeddings beside sentence-transformers and infinity, on one model folder: `python -m bench.embeddings [FOLDER]`."""

import argparse
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from actors.catalogue import local_path
from bench import embeddings_http, embeddings_inside
from bench.embeddings_http import fusion, infinity
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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1, help="of the texts and of the order of the servers")
    args = parser.parse_args()
    args.folder = args.folder or local_path("embedded:minilm")
    run_until_stopped(lambda: _report(args))


async def _report(args: argparse.Namespace) -> None:
    order = Random(args.seed)  # noqa: S311 - texts and an order, no secrets
    print(machine())
    if "inside" in args.parts:
        await embeddings_inside.report(args.folder, args.peer_python, args.rounds, order)
    if "http" in args.parts:
        with TemporaryDirectory(prefix="fusion-bench-") as name:
            logs = Path(name)
            async with fusion(args.folder, logs) as ours, infinity(args.infinity, args.folder, logs) as peer:
                await embeddings_http.report(ours, peer, rounds=2, seconds=5.0, order=order)


if __name__ == "__main__":
    main()
