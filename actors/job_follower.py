"""Keeps what is known of the jobs that have not ended as the log has it."""

import asyncio
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from actors.open_jobs import OpenJobs
from bus.client import Bus
from bus.events import EventLog
from bus.pull import reading_log
from bus.streams import first_seq_since, queued_jobs, stream_last_seq
from bus.subjects import JOB_EVENT
from eventlog.events import JobScheduled

_BATCH = 1000

_SCHEDULED = JOB_EVENT.replace("*.*", "*.scheduled")


class Recent(Struct, frozen=True):
    """How much of the log is read at the start: what is so many seconds old, and at least so many events.

    The queue follows the log within milliseconds, or within seconds after the server has started again; what is
    not in it yet is found among these. The events tell besides how long jobs take.
    """

    seconds: float = 60.0
    events: int = 10_000


async def follow_jobs(bus: Bus, open_jobs: OpenJobs, loaded: asyncio.Event, recent: Recent | None = None) -> None:
    """Tell `open_jobs` all that happens to jobs, for ever; set `loaded` when it knows what had happened before.

    A job that is open is scheduled, or in the work queue, which it leaves when it has ended, or recent.
    """
    goal = await stream_last_seq(bus.nc, "EVENTS")
    after = await _beginning(bus, goal, recent or Recent())
    log = EventLog(bus)
    scheduled = [item.event for item in await log.read(_SCHEDULED)]
    ids = {event.job_id for event in scheduled if isinstance(event, JobScheduled)} | set(await queued_jobs(bus.nc))
    for item in await log.read_last_of_jobs(sorted(ids)):
        open_jobs.take(item.seq, item.event)
    open_jobs.position = after
    if after >= goal:
        loaded.set()
    async with reading_log(bus, after) as reader:
        while True:
            open_jobs.follow(await reader.batch(_BATCH))
            if open_jobs.position >= goal:
                loaded.set()


async def _beginning(bus: Bus, last: int, recent: Recent) -> int:
    """Return the sequence behind which the log is read."""
    since = datetime.now(UTC) - timedelta(seconds=recent.seconds)
    first = await first_seq_since(bus.nc, "EVENTS", since)
    return max(min(last - recent.events, last if first is None else first - 1), 0)
