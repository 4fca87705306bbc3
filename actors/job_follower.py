"""Keeps what is known of the jobs that have not ended as the log has it."""

import asyncio
from datetime import UTC, datetime, timedelta

from actors.open_jobs import OpenJobs
from bus.client import Bus
from bus.events import EventLog
from bus.pull import reading_log
from bus.streams import first_seq_since, oldest_source_seq, stream_last_seq
from bus.subjects import JOB_EVENT
from eventlog.events import JobScheduled

_BATCH = 1000

# Jobs that are read at once.
_TOGETHER = 32

# The queue follows the log within milliseconds, or within seconds after the server has started again.
_LAG = timedelta(minutes=1)

_SCHEDULED = JOB_EVENT.replace("*.*", "*.scheduled")


async def follow_jobs(bus: Bus, open_jobs: OpenJobs, loaded: asyncio.Event) -> None:
    """Tell `open_jobs` all that happens to jobs, for ever; set `loaded` when it knows what had happened before."""
    goal = await stream_last_seq(bus.nc, "EVENTS")
    after = await _beginning(bus, goal)
    await _read_scheduled(EventLog(bus), open_jobs, after)
    open_jobs.position = after
    if after >= goal:
        loaded.set()
    async with reading_log(bus, after) as reader:
        while True:
            open_jobs.follow(await reader.batch(_BATCH))
            if open_jobs.position >= goal:
                loaded.set()


async def _beginning(bus: Bus, last: int) -> int:
    """Return the sequence behind which all events lie of the jobs that are in the queue, or will soon be.

    A job leaves the work queue only when it has ended, so none that is open is older than the oldest one there.
    """
    oldest = await oldest_source_seq(bus.nc, "JOBS")
    recent = await first_seq_since(bus.nc, "EVENTS", datetime.now(UTC) - _LAG)
    return min(each for each in (oldest, recent, last + 1) if each is not None) - 1


async def _read_scheduled(log: EventLog, open_jobs: OpenJobs, after: int) -> None:
    """Take in the jobs that were scheduled before sequence `after` and are not in the queue yet."""
    scheduled = [item.event for item in await log.read(_SCHEDULED) if item.seq <= after]
    ids = [event.job_id for event in scheduled if isinstance(event, JobScheduled)]
    for start in range(0, len(ids), _TOGETHER):
        for story in await asyncio.gather(*map(log.read_job, ids[start : start + _TOGETHER])):
            for item in story:
                open_jobs.take(item.seq, item.event)
