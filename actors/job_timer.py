"""The clock of the jobs: queues what was scheduled when its time comes, and ends what has waited too long."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from actors.open_jobs import OpenJobs
from bus.errors import ConflictError, LostError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from eventlog.events import JobFailed
from eventlog.job import Stamp, decide_due, decide_expiry, fold

log = structlog.get_logger()

# The wall clock may be set, or the machine may sleep.
_LONGEST = 30.0

_AGAIN = timedelta(seconds=1)


async def keep_time(
    events: EventLog, open_jobs: OpenJobs, changed: asyncio.Event, dequeue: Callable[[str], Awaitable[None]]
) -> None:
    """Record what is due, for ever. `changed` is set when something may be due earlier than it was."""
    while True:
        changed.clear()
        for job_id in open_jobs.due(datetime.now(UTC)):
            await _settle(events, open_jobs, job_id, dequeue)
        now, next_at = datetime.now(UTC), open_jobs.next_at
        pause = _LONGEST if next_at is None else min((next_at - now).total_seconds(), _LONGEST)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await changed.wait()


async def _settle(
    events: EventLog, open_jobs: OpenJobs, job_id: str, dequeue: Callable[[str], Awaitable[None]]
) -> None:
    """Record what has come due for the job, by what the log has of it."""
    stamp = Stamp(new_id(), datetime.now(UTC))
    try:
        story = await events.read_job(job_id)
        job = fold([item.event for item in story])
        event = (decide_expiry(job, stamp) or decide_due(job, stamp)) if job else None
        if event is None:
            return
        seq = await events.record_next(event, after=story[-1].seq)
    except (ConflictError, LostError, RefusedError) as error:
        # Somebody was faster, or the log cannot take it now.
        log.info("job.due_again", job_id=job_id, why=str(error))
        open_jobs.remind(job_id, stamp.at + _AGAIN)
        return
    open_jobs.take(seq, event)
    log.info("job.due", job_id=job_id, kind=type(event).__name__)
    if isinstance(event, JobFailed):
        with suppress(LostError):  # Only tidiness.
            await dequeue(job_id)
