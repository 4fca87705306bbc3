"""The bus and the edge alone: an echo behind them beside a bare aiohttp handler. `python -m bench.edge`.

Answers what a request costs more than with nothing in between (one at a time), and how many tokens a second
one edge passes on (many at a time). nats-server, actor, edge and this program share the machine.
"""

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession

from bench.echo_actor import MODEL
from bench.figures import figures, table
from bench.load import Load, Run, Target, ask, run
from bench.processes import Measured, answering, started
from bus.process import run_until_stopped
from bus.server import ServerConfig, free_port, running

FUSION, BARE = "bus and edge", "bare aiohttp"


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.edge", description=__doc__)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="per round and level")
    parser.add_argument("--words", type=int, default=64, help="in each answer; a word is a token")
    parser.add_argument("--seconds", type=float, default=20.0, help="after which a level begins no more requests")
    args = parser.parse_args()
    run_until_stopped(lambda: _measure(args))


async def _measure(args: argparse.Namespace) -> None:
    runs: dict[tuple[int, str], list[Run]] = defaultdict(list)
    cpu: dict[tuple[int, str], float] = defaultdict(float)
    order = random.Random(1)  # noqa: S311 - an order, not a secret
    texts = _texts(args.words)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fusion-bench-")))
        servers = [await stack.enter_async_context(start(folder)) for start in (_fusion, _bare)]
        for target, _ in servers:
            await run(target, Load(at_once=4, requests=50, max_tokens=args.words), texts)
        for at_once in args.at_once * args.rounds:
            load = Load(at_once=at_once, requests=args.requests, max_tokens=args.words, seconds=args.seconds)
            for target, parts in order.sample(servers, len(servers)):
                before = _cpu(parts)
                runs[at_once, target.name].append(await run(target, load, texts))
                for part, seconds in _cpu(parts).items():
                    cpu[at_once, part] += seconds - before[part]
        found = {
            (at_once, target.name): figures(
                runs[at_once, target.name],
                sum(cpu[at_once, part] for part in parts),
                sum(part.rss_mb() for part in parts.values()),
            )
            for at_once in args.at_once
            for target, parts in servers
        }
    print(table(found, FUSION, BARE))
    for at_once in args.at_once:
        ours, bare = found[at_once, FUSION], found[at_once, BARE]
        first, whole = ours.first_p50 - bare.first_p50, ours.total_p50 - bare.total_p50
        print(f"{at_once} at once: first token {first:.2f} ms and whole answer {whole:.2f} ms over the bare one (p50)")
        tokens = sum(each.tokens for one in runs[at_once, FUSION] for each in one.outcomes)
        shares = (f"{part} {cpu[at_once, part] / tokens * 1e6:.0f}" for part in servers[0][1])
        print(f"{at_once} at once: CPU µs per token: {', '.join(shares)}")


def _cpu(parts: dict[str, Measured]) -> dict[str, float]:
    return {name: part.cpu_seconds() for name, part in parts.items()}


def _texts(words: int) -> Iterator[str]:
    return (f"{number}" + " word" * (words - 1) for number in itertools.count(1))


@asynccontextmanager
async def _fusion(folder: Path) -> AsyncGenerator[tuple[Target, dict[str, Measured]]]:
    port = free_port()
    config = ServerConfig(store=folder / "nats", port=free_port(), monitor_port=free_port(), name="bench")
    environment = {
        "FUSION_NATS_URL": config.url,
        "FUSION_STATE_DIR": str(folder),
        "LOG_LEVEL": "info",
        "DEFAULT_CONCURRENCY": "64",
    }
    async with (
        running(config, folder / "nats.log") as server,
        started([sys.executable, "-m", "bench.echo_actor"], folder / "actor.log", environment) as actor,
        started([sys.executable, "-m", "http_edge", "--port", str(port)], folder / "edge.log", environment) as edge,
    ):
        await answering(f"http://127.0.0.1:{port}/livez")
        target = Target(FUSION, f"http://127.0.0.1:{port}", MODEL)
        await _served(target)
        yield (
            target,
            {"nats-server": Measured(server.pid), "actor": actor, "edge": edge},
        )


async def _served(target: Target) -> None:
    """Return when the actor answers."""
    async with asyncio.timeout(60), ClientSession() as session:
        while (await ask(session, target, "hello", 1)).error:
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _bare(folder: Path) -> AsyncGenerator[tuple[Target, dict[str, Measured]]]:
    port = free_port()
    async with started([sys.executable, "-m", "bench.bare", str(port)], folder / "bare.log") as bare:
        await answering(f"http://127.0.0.1:{port}/readyz")
        yield Target(BARE, f"http://127.0.0.1:{port}", MODEL), {"bare": bare}


if __name__ == "__main__":
    main()
