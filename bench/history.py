"""The history: how fast it is rebuilt, and how fast it answers while events come. `python -m bench.history`.

Fills the log with jobs and requests, has a real historian rebuild its file from it, and reads the same log once more
without doing anything with it, which is what no projection can beat. Then it lists jobs over NATS and over HTTP
while events are recorded. nats-server, historian, edge and this program share the machine.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp

from bench.figures import percentile
from bench.processes import Measured, answering, machine, started
from bus.client import Bus
from bus.config import BusConfig
from bus.errors import LostError
from bus.events import subject_of
from bus.ids import new_id
from bus.messages.history import HistoryQuery, RebuildHistory
from bus.process import run_until_stopped
from bus.pull import reading_log
from bus.server import ServerConfig, free_port, running
from bus.streams import ensure_streams, stream_last_seq
from bus.subjects import LIST_HISTORY, REBUILD_HISTORY
from eventlog.events import Event, JobCompleted, JobQueued, JobStarted, RequestFinished, encode

_MODELS = ("mlx-community/Phi-3-mini-4k-instruct-unsloth-4bit", "mlx-community/Qwen3-8B-4bit")
_IN_FLIGHT = 4000
_PATIENCE = 600.0


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="in the log before anything is measured")
    parser.add_argument("--rounds", type=int, default=3, help="of rebuilding and reading")
    parser.add_argument("--rate", type=float, default=200.0, help="events a second while jobs are listed")
    parser.add_argument("--seconds", type=float, default=20.0, help="for which jobs are listed, each way")
    args = parser.parse_args()
    run_until_stopped(lambda: _measure(args))


async def _measure(args: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fusion-bench-")))
        bus, historian, url = await stack.enter_async_context(_fusion(folder))
        await _fill(bus, args.events)
        print(machine())
        for _ in range(args.rounds):
            before = historian.cpu_seconds()
            rebuilt = await _rebuilt(bus)
            cpu = (historian.cpu_seconds() - before) / args.events * 1e6
            read = await _read(bus)
            shown = f"rebuilt {rebuilt:.0f} events/s ({cpu:.0f} µs of CPU each), read {read:.0f} events/s"
            print(f"{shown}, ratio {rebuilt / read:.2f}")
        print(f"historian {historian.rss_mb():.0f} MB, file {(folder / 'history.duckdb').stat().st_size / 1e6:.0f} MB")
        async with aiohttp.ClientSession(url) as http:
            for way, ask in (("NATS", lambda: _ask(bus)), ("HTTP", lambda: _get(http))):
                waits = await _listed(bus, ask, args.rate, args.seconds)
                shown = ", ".join(f"p{percent} {percentile(waits, percent):.1f} ms" for percent in (50, 95, 99))
                print(f"list over {way} during {args.rate:g} events/s: {shown} ({len(waits)} lists)")


@asynccontextmanager
async def _fusion(folder: Path) -> AsyncGenerator[tuple[Bus, Measured, str]]:
    """Run a server, a historian and an edge; give a connection, the historian and the edge's address."""
    port = free_port()
    config = ServerConfig(store=folder / "nats", port=free_port(), monitor_port=free_port(), name="bench", sync="2m")
    environment = {"FUSION_NATS_URL": config.url, "FUSION_STATE_DIR": str(folder), "LOG_LEVEL": "info"}
    async with (
        running(config, folder / "nats.log"),
        Bus.connect("bench", BusConfig(url=config.url)) as bus,
        started([sys.executable, "-m", "actors", "historian"], folder / "historian.log", environment) as historian,
        started([sys.executable, "-m", "http_edge", "--port", str(port)], folder / "edge.log", environment),
    ):
        await answering(f"http://127.0.0.1:{port}/livez")
        await _answers(bus)
        yield bus, historian, f"http://127.0.0.1:{port}"


async def _answers(bus: Bus) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await bus.ask(LIST_HISTORY(), HistoryQuery(limit=1))
            except LostError:
                await asyncio.sleep(0.1)
            else:
                return


def _events(begin: datetime) -> Iterator[Event]:
    """Yield the events of jobs, each queued, started, asked and completed, some always open at once."""
    open_jobs: list[tuple[str, str]] = []
    for number in range(sys.maxsize):
        at = begin + timedelta(milliseconds=number * 20)
        job_id, model = new_id("job"), _MODELS[number % len(_MODELS)]
        open_jobs.append((job_id, model))
        yield JobQueued(
            id=new_id(),
            at=at,
            job_id=job_id,
            model=model,
            operation="chat",
            priority="normal",
            input_blob="0" * 64,
            metadata={"user_id": f"user{number % 1000}", "purpose": "bench"},
            key=f"key-{number % 20:012x}",
        )
        yield JobStarted(id=new_id(), at=at, job_id=job_id, actor="chat-1", attempt=1, revision="r1")
        if len(open_jobs) > 64:
            yield from _ended(*open_jobs.pop(0), at)


def _ended(job_id: str, model: str, at: datetime) -> Iterator[Event]:
    yield RequestFinished(
        id=new_id(),
        at=at,
        request_id=job_id,
        model=model,
        operation="chat",
        outcome="completed",
        queued=0.01,
        first=0.2,
        total=1.3,
        prompt_tokens=120,
        completion_tokens=64,
        key="key-000000000001",
    )
    yield JobCompleted(
        id=new_id(),
        at=at,
        job_id=job_id,
        attempt=1,
        result_blob="1" * 64,
        prompt_tokens=120,
        completion_tokens=64,
    )


async def _fill(bus: Bus, count: int) -> None:
    await ensure_streams(bus.nc, keep_days=7)
    js = bus.nc.jetstream(publish_async_max_pending=_IN_FLIGHT)
    for _, event in zip(range(count), _events(datetime.now(UTC) - timedelta(days=1)), strict=False):
        await js.publish_async(subject_of(event), encode(event), wait_stall=60)
    await js.publish_async_completed()


async def _rebuilt(bus: Bus) -> float:
    """Return how many events a second were projected into a new file that has taken the place of the old one."""
    begun = time.perf_counter()
    rebuilt = await bus.ask(REBUILD_HISTORY(), RebuildHistory(), patience=_PATIENCE)
    return rebuilt.as_of / (time.perf_counter() - begun)


async def _read(bus: Bus) -> float:
    """Return how many events a second come, decoded, out of the log."""
    begun, goal, seq = time.perf_counter(), await stream_last_seq(bus.nc, "EVENTS"), 0
    async with reading_log(bus, 0) as reader:
        while seq < goal:
            seq = (await reader.batch(20_000))[-1].seq
    return goal / (time.perf_counter() - begun)


async def _listed(bus: Bus, ask: Callable[[], Awaitable[None]], rate: float, seconds: float) -> list[float]:
    """Return how long lists took, in ms, one after the other while `rate` events a second are recorded."""
    waits: list[float] = []
    recording = asyncio.create_task(_record(bus, rate))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        await ask()
        waits.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(0.02)
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    return waits


async def _record(bus: Bus, rate: float) -> None:
    js = bus.nc.jetstream()
    begun = time.perf_counter()
    for number, event in enumerate(_events(datetime.now(UTC))):
        await js.publish_async(subject_of(event), encode(event))
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))


async def _ask(bus: Bus) -> None:
    await bus.ask(LIST_HISTORY(), HistoryQuery(status="completed", limit=100))


async def _get(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/jobs", params={"status": "completed", "limit": "100"}) as response:
        assert response.status == 200, await response.text()  # noqa: S101 - a figure of errors is none
        await response.read()


if __name__ == "__main__":
    main()
