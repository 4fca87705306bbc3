"""Fusion beside mlx_lm.server, and vllm-mlx if it is there, on one model folder: `python -m bench.chat [FOLDER]`.

All run on this machine at once, warm, on the same BLAS; only one has load at a time, in random order, round by
round, so that what else the machine does hits all.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from bench.figures import Figures, figures, table
from bench.load import Load, Run, Target, prompts, run
from bench.plot import plots
from bench.processes import Measured, answering, environment, machine, started
from bus.process import run_until_stopped
from bus.server import free_port

FUSION, PEER, OTHER_PEER = "Fusion", "mlx_lm.server", "vllm-mlx"
_TOY = Path(__file__).parents[1] / "models" / "fusion-toy"
_MODEL = "measured"


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.chat", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=_TOY, help="the model's folder; unsaid, the toy")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 8, 32, 64], help="requests in flight")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=64, help="per round and level; at least two waves are sent")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="after which a level begins no more requests")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the servers")
    parser.add_argument("--vllm-mlx", type=Path, help="the program of vllm-mlx, to measure it too")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    run_until_stopped(lambda: _report(args))


async def _report(args: argparse.Namespace) -> None:
    found = await _measure(args)
    print(machine())
    print(table(found, FUSION, PEER, *([OTHER_PEER] if args.vllm_mlx else [])))
    print(plots(found, FUSION, PEER))
    for (at_once, name), known in found.items():
        if known.causes:
            print(f"errors of {name} at {at_once}: {known.causes}")
    if args.json:
        rows = [{"at_once": level, "server": name, **msgspec.to_builtins(it)} for (level, name), it in found.items()]
        content = json.dumps({"machine": machine(), "rows": rows}, indent=1)
        await asyncio.to_thread(args.json.write_text, content, encoding="utf-8")


async def _measure(args: argparse.Namespace) -> dict[tuple[int, str], Figures]:
    folder = args.folder.resolve()
    runs: dict[tuple[int, str], list[Run]] = defaultdict(list)
    cpu: dict[tuple[int, str], float] = defaultdict(float)
    rss: dict[tuple[int, str], float] = {}
    order = random.Random(args.seed)  # noqa: S311 - an order, not a secret
    texts = prompts()
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fusion-bench-")))
        starts = [_fusion(folder, logs), _peer(folder, logs)]
        if args.vllm_mlx:
            starts.append(_other_peer(args.vllm_mlx, folder, logs))
        servers = [await stack.enter_async_context(start) for start in starts]
        for target, _ in servers:
            await run(target, Load(at_once=8, requests=16, max_tokens=args.max_tokens), texts)
        for number in range(args.rounds):
            for at_once in args.at_once:
                requests = max(args.requests, 2 * at_once)
                load = Load(at_once=at_once, requests=requests, max_tokens=args.max_tokens, seconds=args.seconds)
                for target, measured in order.sample(servers, len(servers)):
                    key = (at_once, target.name)
                    before = measured.cpu_seconds()
                    runs[key].append(await run(target, load, texts))
                    cpu[key] += measured.cpu_seconds() - before
                    rss[key] = measured.rss_mb()
                    print(f"round {number + 1}, {at_once} at once, {target.name}: done", file=sys.stderr)
    return {key: figures(each, cpu[key], rss[key]) for key, each in sorted(runs.items())}


@asynccontextmanager
async def _fusion(folder: Path, logs: Path) -> AsyncGenerator[tuple[Target, Measured]]:
    port = free_port()
    config = logs / "fusion.yaml"
    entry = {"id": _MODEL, "path": str(folder), "kind": "chat"}
    config.write_text(json.dumps({"models": [entry]}), encoding="utf-8")  # JSON is YAML too.
    argv = [sys.executable, "-m", "cli", "up", "--config", str(config), "--state-dir", str(logs / "state")]
    argv += ["--port", str(port), "--nats-port", str(free_port())]
    async with started(argv, logs / "fusion.log", environment()) as measured:
        await answering(f"http://127.0.0.1:{port}/readyz")
        yield Target(FUSION, f"http://127.0.0.1:{port}", _MODEL), measured


@asynccontextmanager
async def _peer(folder: Path, logs: Path) -> AsyncGenerator[tuple[Target, Measured]]:
    port = free_port()
    argv = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder)]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"]
    async with started(argv, logs / "peer.log", environment()) as measured:
        await answering(f"http://127.0.0.1:{port}/health")
        yield Target(PEER, f"http://127.0.0.1:{port}", str(folder)), measured


@asynccontextmanager
async def _other_peer(program: Path, folder: Path, logs: Path) -> AsyncGenerator[tuple[Target, Measured]]:
    port = free_port()
    argv = [str(program), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--continuous-batching", "--offline"]
    async with started(argv, logs / "other-peer.log", environment()) as measured:
        await answering(f"http://127.0.0.1:{port}/v1/models")
        yield Target(OTHER_PEER, f"http://127.0.0.1:{port}", str(folder)), measured


if __name__ == "__main__":
    main()
