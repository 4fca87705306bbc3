"""Heavy models that share slots, under one load: `python -m bench.swaps [FOLDER]`.

Fusion by its rules, Fusion first come first served, and mlx_lm.server, which keeps one model and loads what is asked.
Each is started anew for each run and has loaded nothing; they take turns in random order, round by round, and are
asked the same in the same order.
"""

import argparse
import asyncio
import itertools
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import ClientSession, TCPConnector
from msgspec import Struct

from bench.figures import percentile
from bench.load import Outcome, Target, ask, prompts
from bench.processes import answering, environment, machine, started
from bus.client import Bus
from bus.config import BusConfig
from bus.events import EventLog
from bus.process import run_until_stopped
from bus.server import free_port
from eventlog.events import ModelLoading, Recorded

FUSION, FIRST_COME, PEER = "Fusion", "Fusion, first come first served", "mlx_lm.server"
_TOY = Path(__file__).parents[1] / "models" / "fusion-toy"
_FEED = "fusion.feed.model.>"


class Swaps(Struct):
    """How often models were loaded; None where nobody tells."""

    count: int | None = 0


class Round(Struct, frozen=True):
    """One run of one server."""

    outcomes: tuple[Outcome, ...]
    seconds: float
    loads: int | None


Server = Callable[[], AbstractAsyncContextManager[tuple[str, Swaps]]]


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.swaps", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=_TOY, help="copied, it is all models; unsaid, the toy")
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--requests", type=int, default=200, help="per round")
    parser.add_argument("--at-once", type=int, default=32, help="requests in flight")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1, help="of the order of the requests and of the servers")
    args = parser.parse_args()
    run_until_stopped(lambda: _report(args))


async def _report(args: argparse.Namespace) -> None:
    order = random.Random(args.seed)  # noqa: S311 - an order, not a secret
    rounds: dict[str, list[Round]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="fusion-bench-") as name:
        folder = Path(name)
        models = [shutil.copytree(args.folder, folder / f"model-{number}").name for number in range(args.models)]
        servers: dict[str, Server] = {
            FUSION: partial(_fusion, folder, models, args.slots, {}),
            FIRST_COME: partial(_fusion, folder, models, args.slots, {"max_overtaken": 0}),
            PEER: partial(_peer, folder),
        }
        for number in range(args.rounds):
            asked = [(order.choice(models), text) for text in itertools.islice(prompts(), args.requests)]
            for server in order.sample(list(servers), len(servers)):
                rounds[server].append(await _measure(servers[server], asked, args.at_once, args.max_tokens))
                print(f"round {number + 1}, {server}: {rounds[server][-1].seconds:.1f} s", file=sys.stderr)
    print(machine())
    print(_table(rounds))


async def _measure(server: Server, asked: Sequence[tuple[str, str]], at_once: int, max_tokens: int) -> Round:
    """Keep `at_once` requests in flight until all are sent."""
    outcomes: list[Outcome] = []
    left = iter(asked)

    async def worker(session: ClientSession, url: str) -> None:
        for model, text in left:
            outcomes.append(await ask(session, Target("", url, model), text, max_tokens))

    async with server() as (url, swaps), ClientSession(connector=TCPConnector(limit=0)) as session:
        begun = time.perf_counter()
        await asyncio.gather(*(worker(session, url) for _ in range(at_once)))
        return Round(tuple(outcomes), time.perf_counter() - begun, swaps.count)


@asynccontextmanager
async def _fusion(
    folder: Path, models: Sequence[str], slots: int, rules: Mapping[str, int]
) -> AsyncGenerator[tuple[str, Swaps]]:
    port, nats_port = free_port(), free_port()
    entries = [{"id": model, "path": str(folder / model), "kind": "chat", "tier": 2} for model in models]
    config = folder / "fusion.yaml"
    config.write_text(json.dumps({"actors": {"slots": slots, **rules}, "models": entries}), encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="fusion-bench-") as state:
        argv = [sys.executable, "-m", "cli", "up", "--config", str(config), "--state-dir", state]
        argv += ["--port", str(port), "--nats-port", str(nats_port)]
        async with started(argv, folder / "fusion.log", environment()):
            await answering(f"http://127.0.0.1:{port}/readyz")
            async with (
                Bus.connect("bench", BusConfig(url=f"nats://127.0.0.1:{nats_port}")) as bus,
                EventLog(bus).follow(_FEED) as feed,
            ):
                swaps = Swaps()
                counting = asyncio.create_task(_count(feed, swaps))
                yield f"http://127.0.0.1:{port}", swaps
                counting.cancel()


async def _count(feed: AsyncGenerator[Recorded], swaps: Swaps) -> None:
    async for item in feed:
        swaps.count = (swaps.count or 0) + isinstance(item.event, ModelLoading)


@asynccontextmanager
async def _peer(folder: Path) -> AsyncGenerator[tuple[str, Swaps]]:
    port = free_port()
    argv = [sys.executable, "-m", "mlx_lm", "server", "--host", "127.0.0.1", "--port", str(port)]
    async with started([*argv, "--log-level", "WARNING"], folder / "peer.log", environment(), folder):
        await answering(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}", Swaps(None)


def _table(rounds: Mapping[str, Sequence[Round]]) -> str:
    """Return a Markdown table: what each server took, and Fusion by its rules over each of the others."""
    rows = {server: _figures(rounds[server]) for server in (FUSION, FIRST_COME, PEER)}
    lines = ["| server | requests | errors | loads | all, s | p50 s | p99 s |", "| --- " * 7 + "|"]
    for server, known in rows.items():
        lines.append(f"| {server} | " + " | ".join("" if each is None else f"{each:.4g}" for each in known) + " |")
        if server != FUSION:
            ratios = (
                f"*{ours / other:.2f}*" if ours and other else ""
                for ours, other in zip(rows[FUSION][2:], known[2:], strict=True)
            )
            lines.append("| *ratio* |  |  | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def _figures(rounds: Sequence[Round]) -> tuple[float | None, ...]:
    """Return how many requests there were, how many failed, loads and seconds of the median round, and p50 and p99."""
    outcomes = [outcome for each in rounds for outcome in each.outcomes]
    totals = [outcome.total for outcome in outcomes if outcome.error is None]
    loads = [each.loads for each in rounds if each.loads is not None]
    return (
        len(outcomes),
        len(outcomes) - len(totals),
        statistics.median(loads) if loads else None,
        statistics.median(each.seconds for each in rounds),
        percentile(totals, 50),
        percentile(totals, 99),
    )


if __name__ == "__main__":
    main()
