"""The clock of the jobs: queues what was scheduled when its time comes, and ends what has waited too long."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog
from msgspec import Struct

from actors.open_jobs import OpenJobs
from bus.errors import ConflictError, LostError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from eventlog.events import JobStarted, Recorded
from eventlog.job import Job, Stamp, decide_due, decide_expiry, fold

log = structlog.get_logger()

# The wall clock may be set, or the machine may sleep.
_LONGEST = 30.0

_AGAIN = timedelta(seconds=1)
# So long after an attempt had to be over, nobody is left who could tell how it ended.
_LOST = timedelta(seconds=60)


class Timing(Struct, frozen=True, kw_only=True):
    """What the clock works with. `run_timeout` is for attempts of jobs that do not say their own, in seconds.

    `changed` is set when something may be due earlier than it was; `dequeue` takes a job off the work queue.
    """

    events: EventLog
    open_jobs: OpenJobs
    changed: asyncio.Event
    dequeue: Callable[[str], Awaitable[None]]
    run_timeout: float


async def keep_time(timing: Timing) -> None:
    """Record what is due, for ever."""
    changed, open_jobs = timing.changed, timing.open_jobs
    while True:
        changed.clear()
        for job_id in open_jobs.due(datetime.now(UTC)):
            await _settle(timing, job_id)
        now, next_at = datetime.now(UTC), open_jobs.next_at
        pause = _LONGEST if next_at is None else min((next_at - now).total_seconds(), _LONGEST)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await changed.wait()


async def _settle(timing: Timing, job_id: str) -> None:
    """Record what has come due for the job, by what the log has of it; if an attempt runs, look again later."""
    stamp = Stamp(new_id(), datetime.now(UTC))
    try:
        story = await timing.events.read_job(job_id)
        job = fold([item.event for item in story])
        if job is None:
            return
        lost_at = _lost_at(job, story, timing.run_timeout)
        event = decide_expiry(job, stamp, lost=stamp.at >= lost_at) or decide_due(job, stamp)
        if event is None:
            if job.status == "processing":
                timing.open_jobs.remind(job_id, max(lost_at, job.expires_at or lost_at, stamp.at + _AGAIN))
            return
        seq = await timing.events.record_next(event, after=story[-1].seq)
    except (ConflictError, LostError, RefusedError) as error:
        # Somebody was faster, or the log cannot take it now.
        log.info("job.due_again", job_id=job_id, why=str(error))
        timing.open_jobs.remind(job_id, stamp.at + _AGAIN)
        return
    timing.open_jobs.take(seq, event)
    log.info("job.due", job_id=job_id, kind=type(event).__name__)
    if job.queued_at is not None:
        with suppress(LostError):  # Only tidiness.
            await timing.dequeue(job_id)


def _lost_at(job: Job, story: list[Recorded], run_timeout: float) -> datetime:
    """Return when the last attempt of the job has had more time than it may take."""
    begun = max((item.event.at for item in story if isinstance(item.event, JobStarted)), default=job.created_at)
    return begun + timedelta(seconds=job.run_timeout or run_timeout) + _LOST
