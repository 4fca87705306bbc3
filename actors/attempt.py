"""One attempt at a job, from the log to the log: what a worker does with each delivery.

Listens on  fusion.feed.job.*.cancel_requested
Owns        the attempts it has started, by the log: the expected last sequence is its fence
Never       acknowledges a job before the event that ends its attempt is stored
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from structlog.contextvars import bound_contextvars

from actors.work import Outcome, Reach, run_operation
from bus.blobs import Blobs
from bus.client import Bus, settled
from bus.errors import BusError, ConflictError, LostError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from bus.pull import Delivery
from bus.subjects import CANCEL_FEED
from eventlog.events import (
    JobCancelled,
    JobCancelRequested,
    JobCompleted,
    JobEvent,
    JobFailed,
    JobRetryScheduled,
    JobStarted,
)
from eventlog.job import Job, Stamp, decide_attempt, fold

log = structlog.get_logger()

_FIRST_RETRY = 1.0
_LAST_RETRY = 60.0


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs run at once and how often each is tried. Times in seconds.

    `max_attempts` and `run_timeout`, which is for one try, hold for jobs that do not say their own; `drain` is for
    running jobs when the worker stops; `ack_wait` is until the job of a worker that gives no sign of life is handed to
    another. `revision` tells the files of the model from any others.
    """

    concurrency: int
    max_attempts: int
    run_timeout: float
    drain: float
    ack_wait: float = 30.0
    revision: str | None = None


class _Begun(NamedTuple):
    """An attempt that was recorded; its event is number `fence`, and only behind that may its end be recorded."""

    job: Job
    attempt: int
    fence: int


class Attempts:
    """Tries the jobs of one model, which `reach` leads to."""

    def __init__(self, bus: Bus, blobs: Blobs, instance: str, config: WorkerConfig, reach: Reach) -> None:
        self._bus = bus
        self._events = EventLog(bus)
        self._blobs = blobs
        self._instance = instance
        self._config = config
        self._reach = reach
        # One for each attempt, with its job: set when that is to be cancelled.
        self._cancels: dict[asyncio.Event, str] = {}

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        """Hear of cancels until the block ends."""
        subscription = await self._bus.nc.subscribe(CANCEL_FEED, cb=self._on_cancel)
        await settled(self._bus.nc)
        try:
            yield
        finally:
            with suppress(NatsError):
                await subscription.unsubscribe()

    async def run(self, delivery: Delivery) -> float | None:
        """Do what was handed out. Return the delay after which it will be handed out again, if that is planned.

        When cancelled, the job goes back to the queue.
        """
        job_id = delivery.subject.rsplit(".", 1)[1]
        again = None
        with bound_contextvars(job_id=job_id):
            try:
                async with asyncio.TaskGroup() as group:
                    keeping = group.create_task(_keep(delivery, self._config.ack_wait / 3))
                    try:
                        again = await self._attempt(job_id, delivery)
                    except asyncio.CancelledError:
                        await delivery.nak(0)  # The worker stops; another need not wait for the ack wait to end.
                        raise
                    keeping.cancel()
            except* (LostError, RefusedError) as lost:
                # The log is out of reach, or full: the job stays in the queue and comes again.
                log.warning("job.dropped", errors=[str(error) for error in lost.exceptions])
            except* ConflictError:
                log.warning("job.fenced", instance=self._instance)
        return again

    async def _on_cancel(self, msg: Msg) -> None:
        job_id = msg.subject.split(".")[3]
        for cancelled, running in self._cancels.items():
            if running == job_id:
                cancelled.set()

    async def _attempt(self, job_id: str, delivery: Delivery) -> float | None:
        """One delivery.

        1. Listen for a cancel before anything is decided, so that none falls in between.
        2. Record the attempt, or settle the job if it may not start.
        3. Do the work.
        4. Record how it ended, then acknowledge.
        """
        cancelled = asyncio.Event()
        self._cancels[cancelled] = job_id  # 1
        try:
            begun = await self._begin(job_id, delivery)  # 2
            if begun is None:
                await delivery.ack()
                return None
            outcome = await self._work(begun, cancelled)  # 3
        finally:
            del self._cancels[cancelled]
        end = self._end(begun, outcome)
        await self._record_end(end, begun.fence)  # 4
        if isinstance(end, JobRetryScheduled):
            await delivery.nak(end.delay)
            return end.delay
        await delivery.ack()
        return None

    async def _begin(self, job_id: str, delivery: Delivery) -> _Begun | None:
        """Record what comes next for the job; return None if that is not an attempt.

        A job that was just queued is known from the delivery; if more has happened, the log refuses, and is read.
        Raises `ConflictError` when another worker was faster.
        """
        queued = delivery.queued
        job, last = (fold([queued.event]), queued.seq) if queued else await self._read(job_id)
        while job is not None:
            event = decide_attempt(
                job,
                _stamp(),
                actor=self._instance,
                max_attempts=self._config.max_attempts,
                revision=self._config.revision,
            )
            if event is None:
                return None
            try:
                fence = await self._events.record_next(event, after=last)
            except ConflictError:
                job, last = await self._read(job_id)
                if job is not None and job.status == "processing" and not job.cancel_requested:
                    raise
                continue
            log.info("job.attempt", kind=_kind(event))
            return _Begun(job, event.attempt, fence) if isinstance(event, JobStarted) else None
        return None

    async def _read(self, job_id: str) -> tuple[Job | None, int]:
        recorded = await self._events.read_job(job_id)
        return fold(item.event for item in recorded), recorded[-1].seq if recorded else 0

    async def _work(self, begun: _Begun, cancelled: asyncio.Event) -> Outcome:
        """Ask the actor. Ends early when a cancel is recorded; raises `ConflictError` when the job is another's."""
        payload = await self._blobs.get(begun.job.input_blob)
        if payload is None:
            return Outcome(reason="input_lost", error="The input of the job is gone or damaged.")
        watching = asyncio.create_task(self._watch(begun, cancelled))
        working = asyncio.create_task(self._ask(begun.job, payload))
        try:
            await asyncio.wait((watching, working), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            watching.result()
            return Outcome(cancelled=True)
        finally:
            for task in (watching, working):
                task.cancel()
            await asyncio.gather(watching, working, return_exceptions=True)

    async def _watch(self, begun: _Begun, cancelled: asyncio.Event) -> None:
        """Return when the job is to be cancelled; raise `ConflictError` when another worker has it.

        The feed tells of cancels at once. What it told while this process stood still, or was cut off from the server,
        is found in the log, which is read whenever a sign of life is due.
        """
        while not cancelled.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.ack_wait / 3):
                    await cancelled.wait()
                return
            with suppress(LostError):
                later = [item for item in await self._events.read_job(begun.job.job_id) if item.seq > begun.fence]
                if not all(isinstance(item.event, JobCancelRequested) for item in later):
                    raise ConflictError("conflict", "Another worker has the job.")
                if later:
                    return

    async def _ask(self, job: Job, payload: bytes) -> Outcome:
        timeout = job.run_timeout or self._config.run_timeout
        try:
            async with asyncio.timeout(timeout):
                result = await run_operation(self._bus, self._reach, job, payload)
        except TimeoutError:
            return Outcome(reason="timeout", error=f"The job ran longer than {timeout:g} s.")
        except BusError as error:
            if isinstance(error, LostError) or error.code in _PASSING:
                return Outcome(error=str(error), may_pass=True)
            code, param = error.code, error.failure.param
            return Outcome(reason="refused", error=str(error), error_code=code, error_param=param)
        return Outcome(
            result_blob=await self._blobs.put(result.body),
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
        )

    def _end(self, begun: _Begun, outcome: Outcome) -> JobEvent:
        """Return the event that tells how the attempt ended.

        1. A result: completed.
        2. A cancel: cancelled.
        3. An error that may pass: another try, unless this was the last.
        4. Else: failed.
        """
        stamp, job_id, attempt = _stamp(), begun.job.job_id, begun.attempt
        if outcome.result_blob is not None:  # 1
            return JobCompleted(
                id=stamp.id,
                at=stamp.at,
                job_id=job_id,
                attempt=attempt,
                result_blob=outcome.result_blob,
                prompt_tokens=outcome.prompt_tokens,
                completion_tokens=outcome.completion_tokens,
            )
        if outcome.cancelled:  # 2
            return JobCancelled(id=stamp.id, at=stamp.at, job_id=job_id)
        if outcome.may_pass and attempt < (begun.job.max_attempts or self._config.max_attempts):  # 3
            delay = retry_delay(attempt, random.random())  # noqa: S311 - a delay, not a secret
            return JobRetryScheduled(
                id=stamp.id, at=stamp.at, job_id=job_id, attempt=attempt, delay=delay, error=outcome.error
            )
        reason = "max_attempts" if outcome.may_pass else outcome.reason or "error"
        return JobFailed(  # 4
            id=stamp.id,
            at=stamp.at,
            job_id=job_id,
            reason=reason,
            error=outcome.error,
            error_code=outcome.error_code,
            error_param=outcome.error_param,
        )

    async def _record_end(self, event: JobEvent, fence: int) -> None:
        """Record `event` right behind the attempt; where a cancel came in between, that the job is cancelled."""
        try:
            await self._events.record_next(event, after=fence)
        except ConflictError:
            recorded = await self._events.read_job(event.job_id)
            last = recorded[-1]
            if not isinstance(last.event, JobCancelRequested) or recorded[-2].seq != fence:
                raise  # Another has the job.
            stamp = _stamp()
            event = JobCancelled(id=stamp.id, at=stamp.at, job_id=event.job_id)
            await self._events.record_next(event, after=last.seq)
        log.info("job.ended", kind=_kind(event))


# Refusals that another try may not meet.
_PASSING = frozenset(("queue_full", "queue_timeout", "internal_error", "cancelled"))


def retry_delay(attempt: int, chance: float) -> float:
    """Return for how many seconds a job waits whose attempt number `attempt` was lost; `chance` is from 0 to 1.

    Exponential with equal jitter, so that jobs which were lost together do not come together again, and none uses its
    attempts up at once (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).
    """
    return (1 + chance) / 2 * min(_FIRST_RETRY * 2.0 ** min(attempt - 1, 10), _LAST_RETRY)


async def _keep(delivery: Delivery, period: float) -> None:
    while True:
        await asyncio.sleep(period)
        await delivery.in_progress()


def _kind(event: JobEvent) -> str:
    return str(type(event).__struct_config__.tag)


def _stamp() -> Stamp:
    return Stamp(new_id(), datetime.now(UTC))
