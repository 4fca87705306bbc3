"""Jobs while everything around them is killed and frozen: `python -m bench.chaos --jobs 400`.

Real processes on loopback: nats-server, core, historian, edge, and workers beside an echo. At the end the log and the
history are held against what was accepted. Exit status 1 when anything is wrong.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import ClientError, ClientResponseError, ClientSession, ClientTimeout
from msgspec import Struct

from bench.chaos_check import Events, count, statuses, violations
from bench.chaos_parts import Parts
from bench.echo_actor import MODEL
from bus.client import Bus
from bus.config import BusConfig
from bus.errors import LostError
from bus.events import EventLog
from bus.ids import new_id
from bus.messages.history import HistoryQuery
from bus.messages.jobs import CancelJob, SubmitJob
from bus.process import run_until_stopped
from bus.streams import api, stream_last_seq
from bus.subjects import CANCEL_JOB, JOB_EVENTS, LIST_HISTORY, SUBMIT_JOB
from eventlog.events import JobEvent, JobRetryScheduled, JobStarted, Unknown
from eventlog.history import History
from eventlog.history_query import count_jobs, find_job
from eventlog.job import Job, fold

_ACK_WAIT = 2.0
_WORKERS = 3
_MOST_WORDS = 20
# Of so many jobs one is cancelled.
_CANCELLED = 10
_JOBS_PER_FAULT = 8
_PATIENCE = 180.0

# In this order, over and over; then shuffled.
_FAULTS = (
    "worker freezes",
    "worker kills",
    "server kills",
    "edge kills",
    "historian kills",
    "core kills",
    "worker freezes",
    "worker kills",
    "worker freezes",
    "worker kills",
)


class Report(Struct, frozen=True, kw_only=True):
    """What was done, what came of it, and what is wrong."""

    counts: dict[str, int]
    statuses: dict[str, int]
    violations: list[str]
    seconds: float


def main() -> None:
    """Read the arguments, make chaos, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args()
    run_until_stopped(lambda: _print(args))


async def _print(args: argparse.Namespace) -> None:
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fusion-chaos-") as name:
        report = await chaos(Path(name), args.jobs, args.seed)
    print(*(f"{value} {name}" for name, value in report.counts.items()), sep=", ")
    print(*(f"{value} {name}" for name, value in report.statuses.items()), f"{report.seconds:.0f} s", sep=", ")
    print(*report.violations, f"{len(report.violations)} violations", sep="\n")
    if report.violations:
        sys.exit(1)


async def chaos(folder: Path, jobs: int, seed: int) -> Report:
    """Run so many jobs in `folder` while faults go on, one for every eight jobs, and return what came of it."""
    begun = time.monotonic()
    dice = random.Random(seed)  # noqa: S311 - an order, not a secret
    parts = Parts(folder, _WORKERS, _ACK_WAIT)
    kinds = list(islice(cycle(_FAULTS), jobs // _JOBS_PER_FAULT))
    dice.shuffle(kinds)
    async with parts.living(), Bus.connect("chaos", BusConfig(url=parts.server.config.url, admit_timeout=2)) as bus:
        crowd = _Crowd(bus, parts.url, dice)
        async with asyncio.timeout(_PATIENCE + jobs), asyncio.TaskGroup() as group:
            for number in range(jobs):
                group.create_task(crowd.live(number))
                await asyncio.sleep(dice.uniform(0, 0.1))
                if number % _JOBS_PER_FAULT == 0 and kinds:
                    # Others are starting or frozen. Only what works can be disturbed.
                    await bus.presence.until(lambda beats: parts.workers_at_work(beats) > 1)
                    group.create_task(_disturb(parts, kinds.pop(), dice))
        left = await _left_after(bus, crowd.accepted)
        recorded = await _recorded(bus)
        await _caught_up(bus)
    wrong = left + violations(crowd.accepted, recorded, _history(folder / "history.duckdb", recorded))
    counts = {
        "jobs": len(crowd.accepted),
        **Counter(islice(cycle(_FAULTS), jobs // _JOBS_PER_FAULT)),
        "accepted cancels": crowd.cancels,
        "attempts": count(recorded, JobStarted),
        "retries": count(recorded, JobRetryScheduled),
        "fenced": parts.fenced(),
    }
    return Report(counts=counts, statuses=statuses(recorded), violations=wrong, seconds=time.monotonic() - begun)


async def _disturb(parts: Parts, kind: str, dice: random.Random) -> None:
    worker = dice.choice(parts.workers)
    match kind:
        case "worker freezes":
            worker.freeze()
            await asyncio.sleep(_ACK_WAIT * dice.uniform(1.2, 2.0))
            worker.resume()
        case "worker kills":
            worker.kill()
        case "server kills":
            parts.server.kill()
        case "edge kills":
            parts.edge.kill()
        case "historian kills":
            parts.historian.kill()
        case _:
            parts.core.kill()


class _Crowd:
    """Submits and cancels, through HTTP and through NATS in turn, and insists until it is answered."""

    def __init__(self, bus: Bus, url: str, dice: random.Random) -> None:
        self.accepted: list[str] = []
        self.cancels = 0
        self._bus = bus
        self._url = url
        self._dice = dice

    async def live(self, number: int) -> None:
        """Submit the job with this number, and cancel some."""
        key, text = new_id("job"), "word " * self._dice.randint(1, _MOST_WORDS)
        told = {"messages": [{"role": "user", "content": text}]}
        by_http = bool(number % 2)
        job_id = await _insisting(lambda: _submit_by_http(self._url, key, told) if by_http else self._submit(key, told))
        self.accepted.append(job_id)
        if number % _CANCELLED == 0:
            await asyncio.sleep(self._dice.uniform(0, 1))
            await _insisting(lambda: _cancel_by_http(self._url, job_id) if number % 20 else self._cancel(job_id))
            self.cancels += 1

    async def _submit(self, job_id: str, told: Mapping[str, Any]) -> str:
        content = msgspec.Raw(msgspec.json.encode(told))
        order = SubmitJob(job_id=job_id, model=MODEL, operation="chat", input=content)
        return (await self._bus.ask(SUBMIT_JOB(), order)).job_id

    async def _cancel(self, job_id: str) -> str:
        return (await self._bus.ask(CANCEL_JOB(), CancelJob(job_id=job_id))).job_id


def _http(url: str) -> ClientSession:
    return ClientSession(url, timeout=ClientTimeout(total=5))


async def _submit_by_http(url: str, key: str, told: Mapping[str, Any]) -> str:
    body = {"model_id": MODEL, "operation": "chat", "input": told}
    async with _http(url) as http, http.post("/api/mcp/jobs", json=body, headers={"Idempotency-Key": key}) as response:
        response.raise_for_status()
        return str((await response.json())["job_id"])


async def _cancel_by_http(url: str, job_id: str) -> str:
    async with _http(url) as http, http.delete(f"/api/mcp/jobs/{job_id}") as response:
        response.raise_for_status()
        return job_id


async def _insisting(ask: Callable[[], Awaitable[str]]) -> str:
    """Ask until there is an answer. The same job again changes nothing."""
    while True:
        try:
            return await ask()
        except (LostError, ClientError, TimeoutError) as error:
            if isinstance(error, ClientResponseError) and error.status < 500:
                raise
        await asyncio.sleep(0.2)


async def _left_after(bus: Bus, accepted: list[str]) -> list[str]:
    """Wait until the jobs have ended and the queue is empty; return what is left when that takes too long."""
    log = EventLog(bus)
    try:
        async with asyncio.timeout(_PATIENCE / 2):
            for job_id in accepted:
                while not ((job := fold(item.event for item in await log.read_job(job_id))) and job.is_final):
                    await asyncio.sleep(0.1)
            while (await api(bus.nc, "STREAM.INFO.JOBS"))["state"]["messages"]:
                await asyncio.sleep(0.1)
    except TimeoutError:
        return ["Not all jobs have ended and left the queue."]
    return []


async def _recorded(bus: Bus) -> dict[str, Events]:
    """Return the events of each job."""
    found: defaultdict[str, list[JobEvent | Unknown]] = defaultdict(list)
    for item in await EventLog(bus).read(JOB_EVENTS):
        if isinstance(item.event, JobEvent):
            found[item.event.job_id].append(item.event)
    return dict(found)


async def _caught_up(bus: Bus) -> None:
    """Return when the history has taken in what is in the log."""
    goal = await stream_last_seq(bus.nc, "EVENTS")
    while True:
        try:
            await bus.ask(LIST_HISTORY(), HistoryQuery(limit=1, at_least=goal), patience=10)
        except LostError:
            await asyncio.sleep(0.2)
        else:
            return


def _history(path: Path, recorded: Mapping[str, Events]) -> dict[str, Job]:
    """Return the jobs as the history has them. Raises `LookupError` if it has more than there are in the log."""
    history = History(path)
    try:
        db = history.cursor()
        total = count_jobs(db)
        jobs = {job_id: job for job_id in recorded if (job := find_job(db, job_id=job_id))}
    finally:
        history.close()
    if total != len(jobs):
        raise LookupError(f"The history has {total} jobs, the log {len(jobs)} of them.")
    return jobs


if __name__ == "__main__":
    main()
