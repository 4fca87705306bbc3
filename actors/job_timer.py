"""The clock of the jobs: queues what was scheduled when its time comes, and ends what has waited too long."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from actors.open_jobs import OpenJob, OpenJobs
from bus.errors import ConflictError, LostError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from eventlog.events import JobFailed
from eventlog.job import Stamp, decide_due, decide_expiry

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
        for one in open_jobs.due(datetime.now(UTC)):
            await _settle(events, open_jobs, one, dequeue)
        now, next_at = datetime.now(UTC), open_jobs.next_at
        pause = _LONGEST if next_at is None else min((next_at - now).total_seconds(), _LONGEST)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await changed.wait()


async def _settle(
    events: EventLog, open_jobs: OpenJobs, one: OpenJob, dequeue: Callable[[str], Awaitable[None]]
) -> None:
    stamp = Stamp(new_id(), datetime.now(UTC))
    event = decide_expiry(one.job, stamp) or decide_due(one.job, stamp)
    if event is None:
        return
    try:
        seq = await events.record_next(event, after=one.seq)
    except (ConflictError, LostError, RefusedError) as error:
        # Somebody was faster, whose event has not come here yet, or the log cannot take it now.
        log.info("job.due_again", job_id=one.job.job_id, why=str(error))
        open_jobs.remind(one.job.job_id, stamp.at + _AGAIN)
        return
    open_jobs.take(seq, event)
    log.info("job.due", job_id=one.job.job_id, kind=type(event).__name__)
    if isinstance(event, JobFailed):
        with suppress(LostError):  # Only tidiness.
            await dequeue(one.job.job_id)
