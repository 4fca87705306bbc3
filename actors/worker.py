"""The worker beside a model actor: takes jobs from the queue and asks the actor, through the same door as everyone.

Listens on  fusion.wake.*.<model>.*
Owns        the attempts it has started, by the log: the expected last sequence is its fence
Never       acknowledges a job before the event that ends its attempt is stored
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import structlog
from nats.aio.msg import Msg
from structlog.contextvars import bound_contextvars

from actors.supervisor import Child
from actors.work import Outcome, Reach, run_operation
from bus.blobs import Blobs
from bus.client import Bus
from bus.errors import BusError, ConflictError, LostError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from bus.pull import Delivery, pull_one
from bus.streams import ensure_consumer, queue_consumer
from bus.subjects import JOB_FEED, QUEUE_OF_MODEL, escape, fill, wake_of
from eventlog.events import (
    JobCancelled,
    JobCancelRequested,
    JobCompleted,
    JobEvent,
    JobFailed,
    JobRetryScheduled,
    JobStarted,
    Priority,
    Recorded,
)
from eventlog.job import Job, Stamp, decide_attempt, fold

log = structlog.get_logger()

PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")

_POLL = 2.0


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs run at once and how often each is tried. Times in seconds.

    `run_timeout`: for one try; `drain`: for running jobs when the worker stops; `ack_wait`: until the job of a
    worker that gives no sign of life is handed to another.
    """

    concurrency: int
    max_attempts: int
    run_timeout: float
    drain: float
    ack_wait: float = 30.0


class Worker:
    """Runs the jobs of one model, which `reach` leads to. `drain` may be changed until the worker stops."""

    def __init__(
        self,
        bus: Bus,
        blobs: Blobs,
        model: str,
        instance: str,
        config: WorkerConfig,
        *,
        reach: Reach | None = None,
    ) -> None:
        self._bus = bus
        self._events = EventLog(bus)
        self._blobs = blobs
        self._model = model
        self._instance = instance
        self._config = config
        self._reach = reach or (lambda subject: subject(model))
        self.drain = config.drain
        self._running: set[asyncio.Task[None]] = set()
        self._awake = asyncio.Event()

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._running)

    async def run(self, room: Callable[[], Awaitable[None]]) -> None:
        """Take and run jobs for ever, each when `room` returns. When cancelled, running jobs go back to the queue."""
        for priority in PRIORITIES:
            subject = fill(QUEUE_OF_MODEL, priority, self._model)
            await ensure_consumer(
                self._bus.nc, "JOBS", queue_consumer(self._durable(priority), subject, self._config.ack_wait)
            )
        subscription = await self._bus.nc.subscribe(wake_of(self._model), cb=self._on_wake)
        places = asyncio.Semaphore(self._config.concurrency)
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    while True:
                        await places.acquire()
                        await room()
                        task = group.create_task(self._run(await self._next()))
                        self._running.add(task)
                        task.add_done_callback(self._running.discard)
                        task.add_done_callback(lambda _: places.release())
                finally:
                    await subscription.unsubscribe()
                    if self._running:
                        await asyncio.wait(self._running, timeout=self.drain)
        finally:
            log.debug("worker.stopped", model=self._model)

    async def _next(self) -> Delivery:
        while True:
            self._awake.clear()
            with suppress(LostError):  # The server is away; ask again.
                for priority in PRIORITIES:
                    delivery = await pull_one(self._bus.nc, "JOBS", self._durable(priority))
                    if delivery is not None:
                        return delivery
            # What another worker gave back wakes nobody, so look from time to time.
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL):
                    await self._awake.wait()

    async def _on_wake(self, _: Msg) -> None:
        self._awake.set()

    def _durable(self, priority: Priority) -> str:
        # A consumer's name may not have a slash; `%` and what follows it may stand.
        return f"{priority}_{escape(self._model).replace('/', '%2F')}"

    async def _run(self, delivery: Delivery) -> None:
        job_id = delivery.subject.rsplit(".", 1)[1]
        with bound_contextvars(job_id=job_id):
            try:
                async with asyncio.TaskGroup() as group:
                    beating = group.create_task(_keep(delivery, self._config.ack_wait / 3))
                    try:
                        await self._attempt(job_id, delivery)
                    except asyncio.CancelledError:
                        await delivery.nak(0)  # The worker stops; another need not wait for the ack wait to end.
                        raise
                    beating.cancel()
            except* (LostError, RefusedError) as lost:
                # The log is out of reach, or full: the job stays in the queue and comes again.
                log.warning("job.dropped", errors=[str(error) for error in lost.exceptions])
            except* ConflictError:
                log.warning("job.fenced", instance=self._instance)

    async def _attempt(self, job_id: str, delivery: Delivery) -> None:
        """One delivery, from the log to the log.

        1. Listen for a cancel before anything is decided, so that none falls in between.
        2. Record the attempt, or settle the job if it may not start.
        3. Do the work.
        4. Record how it ended, then acknowledge.
        """
        async with self._events.follow(fill(JOB_FEED, job_id)) as events:  # 1
            job, event, fence = await self._begin(job_id)  # 2
            if job is None or not isinstance(event, JobStarted):
                await delivery.ack()
                return
            outcome = await self._work(job, events)  # 3
        end = _end(job_id, event.attempt, outcome, self._config.max_attempts)
        await self._record_end(end, fence)  # 4
        if isinstance(end, JobRetryScheduled):
            await delivery.nak(end.delay)
            # A redelivery wakes nobody.
            asyncio.get_running_loop().call_later(end.delay + 0.01, self._awake.set)
        else:
            await delivery.ack()

    async def _begin(self, job_id: str) -> tuple[Job | None, JobEvent | None, int]:
        """Record what comes next for the job; return the job before it, the event, and its sequence as fence.

        Raises `ConflictError` when another worker was faster.
        """
        while True:
            recorded = await self._events.read_job(job_id)
            job = fold([item.event for item in recorded])
            if job is None:
                return None, None, 0
            limit = self._config.max_attempts
            event = decide_attempt(job, _stamp(), actor=self._instance, max_attempts=limit)
            if event is None:
                return job, None, 0
            try:
                fence = await self._events.record_next(event, after=recorded[-1].seq)
            except ConflictError:
                now = await self._events.read_job(job_id)
                if isinstance(now[-1].event, JobStarted):
                    raise
                continue  # It was cancelled meanwhile: look again.
            log.info("job.attempt", kind=_kind(event))
            return job, event, fence

    async def _work(self, job: Job, events: AsyncGenerator[Recorded]) -> Outcome:
        """Ask the actor. Ends early when a cancel is recorded."""
        payload = await self._blobs.get(job.input_blob)
        if payload is None:
            return Outcome(reason="input_lost", error="The input of the job is gone or damaged.")
        cancelled = asyncio.create_task(_cancel_requested(events))
        working = asyncio.create_task(self._ask(job, payload))
        try:
            await asyncio.wait((cancelled, working), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else Outcome(cancelled=True)
        finally:
            for task in (cancelled, working):
                task.cancel()
            await asyncio.gather(cancelled, working, return_exceptions=True)

    async def _ask(self, job: Job, payload: bytes) -> Outcome:
        timeout = self._config.run_timeout
        try:
            async with asyncio.timeout(timeout):
                result = await run_operation(self._bus, job.operation, self._reach, payload, job.job_id)
        except TimeoutError:
            return Outcome(reason="timeout", error=f"The job ran longer than {timeout:g} s.")
        except BusError as error:
            if isinstance(error, LostError) or error.code in _PASSING:
                return Outcome(error=str(error), may_pass=True)
            return Outcome(reason="refused", error=str(error))
        return Outcome(
            result_blob=await self._blobs.put(result.body),
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
        )

    async def _record_end(self, event: JobEvent, fence: int) -> None:
        try:
            await self._events.record_next(event, after=fence)
        except ConflictError:
            recorded = await self._events.read_job(event.job_id)
            last = recorded[-1]
            if not isinstance(last.event, JobCancelRequested) or recorded[-2].seq != fence:
                raise  # Another has the job.
            stamp = _stamp()
            cancelled = JobCancelled(id=stamp.id, at=stamp.at, job_id=event.job_id)
            await self._events.record_next(cancelled, after=last.seq)
            log.info("job.cancelled")
            return
        log.info("job.ended", kind=_kind(event))


# Refusals that another try may not meet.
_PASSING = frozenset(("queue_full", "queue_timeout", "internal_error", "cancelled"))


async def _keep(delivery: Delivery, period: float) -> None:
    while True:
        await asyncio.sleep(period)
        await delivery.in_progress()


async def _cancel_requested(events: AsyncGenerator[Recorded]) -> None:
    async for recorded in events:
        if isinstance(recorded.event, JobCancelRequested):
            return


def _end(job_id: str, attempt: int, outcome: Outcome, max_attempts: int) -> JobEvent:
    """Return the event that tells how the attempt ended.

    1. A result: completed.
    2. A cancel: cancelled.
    3. An error that may pass: another try, later each time, unless this was the last.
    4. Else: failed.
    """
    stamp = _stamp()
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
    if outcome.may_pass and attempt < max_attempts:  # 3
        delay = min(0.5 * 2 ** (attempt - 1), 30.0)
        return JobRetryScheduled(
            id=stamp.id, at=stamp.at, job_id=job_id, attempt=attempt, delay=delay, error=outcome.error
        )
    reason = "max_attempts" if outcome.may_pass else outcome.reason or "error"
    return JobFailed(id=stamp.id, at=stamp.at, job_id=job_id, reason=reason, error=outcome.error)  # 4


def _kind(event: JobEvent) -> str:
    return str(type(event).__struct_config__.tag)


def _stamp() -> Stamp:
    return Stamp(new_id(), datetime.now(UTC))


def child(worker: Worker, room: Callable[[], Awaitable[None]], model: str) -> Child:
    """Return what the supervisor needs to run this worker."""
    return Child(f"worker/{model}", lambda: worker.run(room))
