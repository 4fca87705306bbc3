"""Jobs without a model: whole lives per second, and what submitting one takes. `python -m bench.jobs`.

A life is submitted, queued, started, completed and acknowledged. Beside it, on the same nats-server, the bare cycle of
a work queue: publish, pull, acknowledge. nats-server, core, edge, actor and this program share the machine.
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import msgspec
from aiohttp import ClientSession

from bench.echo_actor import MODEL
from bench.figures import percentile
from bench.processes import Measured, answering, machine, started
from bus.client import Bus
from bus.config import BusConfig
from bus.errors import BusError
from bus.events import EventLog
from bus.ids import new_id
from bus.messages.jobs import SubmitJob
from bus.process import run_until_stopped
from bus.pull import pull_one
from bus.server import ServerConfig, free_port, running
from bus.streams import api, ensure_consumer, ensure_stream, queue_consumer
from bus.subjects import SUBMIT_JOB
from eventlog.events import JobCompleted, Recorded

_TOY = Path(__file__).parents[1] / "models" / "fusion-toy"
_INPUT = {"messages": [{"role": "user", "content": "hello"}]}
_BODY = {"model_id": MODEL, "operation": "chat", "input": _INPUT}
_PATIENCE = 60.0
_COLUMNS = (
    "sync_interval",
    "lives/s",
    "bare cycles/s",
    "*ratio*",
    "submit p50 ms",
    "p99 ms",
    "lives/s beside",
    "submit p50 ms",
    "p99 ms",
)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.jobs", description=__doc__)
    parser.add_argument("--sync", nargs="+", default=["always", "2m"], help="sync_interval; nats-server's own is 2m")
    parser.add_argument("--at-once", type=int, default=16, help="jobs in flight, and how many run at once")
    parser.add_argument("--jobs", type=int, default=1000, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--submits", type=int, default=300, help="through HTTP, one after the other")
    parser.add_argument("--beside", type=int, default=4, help="jobs in flight beside the second half of these")
    args = parser.parse_args()
    run_until_stopped(lambda: _report(args))


async def _report(args: argparse.Namespace) -> None:
    print(machine())
    print("| " + " | ".join(_COLUMNS) + " |\n" + "| --- " * len(_COLUMNS) + "|")
    for sync in args.sync:
        with tempfile.TemporaryDirectory(prefix="fusion-bench-") as name:
            async with _fusion(Path(name), sync, args.at_once) as (bus, url, parts):
                print(f"| {sync} | " + await _measured(bus, url, parts, args) + " |", flush=True)


async def _measured(bus: Bus, url: str, parts: dict[str, Measured], args: argparse.Namespace) -> str:
    """Measure with one `sync_interval`; return the columns."""
    lives_s, bare_s = [], []
    cpu = dict.fromkeys(parts, 0.0)
    async with _following(bus) as lives, ClientSession(url) as http:
        await lives.run(50, args.at_once)
        for _ in range(args.rounds):
            bare_s.append(await _rate(args.jobs, lambda: _bare_cycles(bus, args.jobs, args.at_once)))
            before = {name: part.cpu_seconds() for name, part in parts.items()}
            lives_s.append(await _rate(args.jobs, lambda: lives.run(args.jobs, args.at_once)))
            for name, part in parts.items():
                cpu[name] += (part.cpu_seconds() - before[name]) / args.jobs / args.rounds
        alone = await _submits(http, args.submits)
        async with lives.running(args.beside):
            begun, count = time.perf_counter(), lives.count
            beside = await _submits(http, args.submits)
            beside_s = (lives.count - count) / (time.perf_counter() - begun)
    print(*(f"{name} {seconds * 1e3:.2f}" for name, seconds in cpu.items()), "ms CPU per life", file=sys.stderr)
    print("lives/s", *map(round, lives_s), "bare", *map(round, bare_s), file=sys.stderr)
    ratio = median(lives_s) / median(bare_s)
    columns = [f"{median(lives_s):.0f}", f"{median(bare_s):.0f}", f"*{ratio:.2f}*"]
    columns += [f"{percentile(alone, 50):.1f}", f"{percentile(alone, 99):.1f}", f"{beside_s:.0f}"]
    return " | ".join((*columns, f"{percentile(beside, 50):.1f}", f"{percentile(beside, 99):.1f}"))


async def _rate(count: int, work: Callable[[], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    await work()
    return count / (time.perf_counter() - begun)


class Lives:
    """Submits jobs over the bus, and hears on the feed how they end."""

    def __init__(self, bus: Bus) -> None:
        self.count = 0
        self._bus = bus
        self._ends: dict[str, asyncio.Event] = {}

    async def run(self, count: int, at_once: int) -> None:
        """Have so many whole lives; return when the last job is acknowledged."""
        left = iter(range(count))
        await asyncio.gather(*(self._each(left) for _ in range(at_once)))
        await _until_empty(self._bus)

    @asynccontextmanager
    async def running(self, at_once: int) -> AsyncGenerator[None]:
        """Keep jobs in flight until the block ends."""
        async with asyncio.TaskGroup() as group:
            left = itertools.count()
            tasks = [group.create_task(self._each(left)) for _ in range(at_once)]
            yield
            for task in tasks:
                task.cancel()

    async def hear(self, feed: AsyncGenerator[Recorded]) -> None:
        """Follow the feed."""
        async for item in feed:
            if isinstance(item.event, JobCompleted):
                self.count += 1
                if item.event.job_id in self._ends:
                    self._ends[item.event.job_id].set()

    async def _each(self, left: Iterator[int]) -> None:
        for _ in left:
            job_id = new_id("job")
            ended = self._ends[job_id] = asyncio.Event()
            order = SubmitJob(
                job_id=job_id, model=MODEL, operation="chat", input=msgspec.Raw(msgspec.json.encode(_INPUT))
            )
            await self._bus.ask(SUBMIT_JOB(), order)
            async with asyncio.timeout(_PATIENCE):
                await ended.wait()
            del self._ends[job_id]


@asynccontextmanager
async def _following(bus: Bus) -> AsyncGenerator[Lives]:
    lives = Lives(bus)
    async with EventLog(bus).follow("fusion.feed.job.*.completed") as feed:
        hearing = asyncio.create_task(lives.hear(feed))
        yield lives
        hearing.cancel()


async def _submits(http: ClientSession, count: int) -> list[float]:
    """Submit jobs through HTTP one after the other, on one connection; return what each took, in milliseconds."""
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        async with http.post("/api/mcp/jobs", json=_BODY, raise_for_status=True) as response:
            await response.read()
        taken.append((time.perf_counter() - begun) * 1e3)
    return taken


async def _bare_cycles(bus: Bus, count: int, at_once: int) -> None:
    """Publish, pull and acknowledge so many messages, of the size of an event, with nothing of ours in between."""
    stream = {"name": "BARE", "subjects": ["bare.>"], "retention": "workqueue", "storage": "file"}
    await ensure_stream(bus.nc, stream)
    await ensure_consumer(bus.nc, "BARE", queue_consumer("bare", "bare.>"))
    left = iter(range(count))

    async def each() -> None:
        for number in left:
            await bus.nc.request(f"bare.{number}", bytes(500), timeout=5)
            delivery = await pull_one(bus.nc, "BARE", "bare")
            while delivery is None:
                delivery = await pull_one(bus.nc, "BARE", "bare")
            await delivery.ack()

    await asyncio.gather(*(each() for _ in range(at_once)))


async def _until_empty(bus: Bus) -> None:
    async with asyncio.timeout(_PATIENCE):
        while (await api(bus.nc, "STREAM.INFO.JOBS"))["state"]["messages"]:
            await asyncio.sleep(0.002)


@asynccontextmanager
async def _fusion(folder: Path, sync: str, at_once: int) -> AsyncGenerator[tuple[Bus, str, dict[str, Measured]]]:
    port = free_port()
    config = folder / "fusion.yaml"
    config.write_text(json.dumps({"models": [{"id": MODEL, "path": str(_TOY), "kind": "chat", "tier": 1}]}))
    server = ServerConfig(store=folder / "nats", port=free_port(), monitor_port=free_port(), name="bench", sync=sync)
    variables = {
        "FUSION_NATS_URL": server.url,
        "FUSION_STATE_DIR": str(folder),
        "LOG_LEVEL": "info",
        # Half of the places are for jobs.
        "DEFAULT_CONCURRENCY": str(2 * at_once),
    }
    python = [sys.executable, "-m"]
    async with (
        running(server, folder / "nats.log") as nats,
        started([*python, "actors", "core", "--config", str(config)], folder / "core.log", variables) as core,
        started([*python, "bench.echo_actor"], folder / "actor.log", variables) as actor,
        started([*python, "http_edge", "--port", str(port)], folder / "edge.log", variables) as edge,
        Bus.connect("bench", BusConfig(url=server.url)) as bus,
    ):
        url = f"http://127.0.0.1:{port}"
        await answering(f"{url}/livez")
        await _accepted(bus)
        yield bus, url, {"nats-server": Measured(nats.pid), "core": core, "actor": actor, "edge": edge}


async def _accepted(bus: Bus) -> None:
    """Return when a job has been accepted."""
    order = SubmitJob(model=MODEL, operation="chat", input=msgspec.Raw(msgspec.json.encode(_INPUT)))
    async with asyncio.timeout(_PATIENCE):
        while True:
            try:
                await bus.ask(SUBMIT_JOB(), order)
            except BusError:
                await asyncio.sleep(0.1)
            else:
                return


if __name__ == "__main__":
    main()
