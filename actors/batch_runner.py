"""Runs one batch: submits its requests as jobs, a few at a time, and gathers how they end.

All that it does can be done again: the ids of the jobs follow from the batch and the line, and what has happened to
them is heard from the log.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import BinaryIO, Literal, get_args

import msgspec
import structlog
from msgspec.structs import replace

from bus.blobs import Blobs, Draft
from bus.client import Bus
from bus.errors import Code, Failure, LostError, RefusedError
from bus.messages.batches import PlannedRequest, RequestOutcome
from bus.messages.jobs import CancelJob, SubmitJob
from bus.subjects import CANCEL_JOB, SUBMIT_JOB
from eventlog.batch import Batch
from eventlog.events import FailureReason, JobCancelled, JobCompleted, JobFailed, JobQueued

log = structlog.get_logger()

# So many of its jobs are open at once: enough for a model to batch, and few beside what others may queue.
WINDOW = 64

# For how many seconds a batch that is to end waits for those of its jobs that run.
_PATIENCE = 600.0
_PAUSE = 1.0
_LONGEST_PAUSE = 30.0

_CODES: dict[FailureReason, Code] = {
    "error": "internal_error",
    "expired": "timeout",
    "input_lost": "internal_error",
    "max_attempts": "unavailable",
    "model_unavailable": "unavailable",
    "refused": "invalid_request",
    "timeout": "timeout",
}
_NAMED: dict[str | None, Code] = {code: code for code in get_args(Code)}
# Refusals of a job that are about the moment.
_PASSING = frozenset(("queue_full", "storage_full"))


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """How all requests of a batch ended: a line for each in `blob`, and how many did their work or failed at it."""

    blob: str
    completed: int
    failed: int


def line_of(job_id: str) -> tuple[str, int]:
    """Return which batch, and which of its lines, the job is for. For another job the batch is none there is."""
    batch, _, line = job_id.removeprefix("job-").rpartition("-")
    return (batch, int(line)) if line.isdecimal() else ("", 0)


class Runner:
    """Runs one batch that was started."""

    def __init__(self, bus: Bus, blobs: Blobs, batch: Batch) -> None:
        assert batch.plan_blob is not None  # noqa: S101 - it was started
        self.batch_id = batch.batch_id
        self._bus = bus
        self._blobs = blobs
        self._batch = batch
        self._plan_blob = batch.plan_blob
        self._open: set[int] = set()
        self._ended: dict[int, RequestOutcome] = {}
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._rest: Literal["cancelled", "expired"] = "expired"
        if batch.cancelling_at is not None:
            self.cancel()

    def cancel(self) -> None:
        """Submit no more, and end what is open."""
        self._rest = "cancelled"
        self._stop()

    def see(self, line: int, event: JobQueued | JobCompleted | JobFailed | JobCancelled) -> None:
        """Hear what has happened to the job of `line`."""
        if isinstance(event, JobQueued):
            if line not in self._ended:
                self._open.add(line)
            return
        outcome = _outcome(event)
        if outcome.status == "cancelled" and event.at >= self._batch.expires_at:
            outcome = replace(outcome, status=self._rest)  # It was cancelled because its time was over.
        self._end(line, outcome)

    def counts(self) -> dict[str, int]:
        """Return how many requests have done their work, and how many have failed at it."""
        statuses = [outcome.status for outcome in self._ended.values()]
        return {"completed": statuses.count("completed"), "failed": statuses.count("failed")}

    async def run(self) -> Outcomes:
        """Run all requests, or as many as there is time for, and store how each ended."""
        seconds = (self._batch.expires_at - datetime.now(UTC)).total_seconds()
        timer = asyncio.get_running_loop().call_later(max(seconds, 0), self._stop)
        try:
            await self._submit_all()
            await self._until(lambda: not self._open or self._stopped.is_set())
        finally:
            timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._cancel_open()
                await self._until(lambda: not self._open)
        return await self._store()

    async def _submit_all(self) -> None:
        plan = await self._blobs.open(self._plan_blob)
        if plan is None:
            failure = Failure(code="internal_error", message="The plan of the batch is gone or damaged.")
            for line in range(1, self._batch.total + 1):
                self._end(line, RequestOutcome(status="failed", job_id=self._job_id(line), failure=failure))
            return
        with plan:
            await self._submit_lines(plan)

    async def _submit_lines(self, plan: BinaryIO) -> None:
        for line in range(1, self._batch.total + 1):
            if self._stopped.is_set():
                return
            planned = await asyncio.to_thread(plan.readline)
            if line in self._open or line in self._ended:
                continue
            await self._until(lambda: len(self._open) < WINDOW or self._stopped.is_set())
            await self._submit(line, _planned.decode(planned))

    async def _submit(self, line: int, planned: PlannedRequest) -> None:
        """Submit until it is known whether the job was accepted, or no more is to be submitted."""
        job = SubmitJob(
            model=planned.model,
            operation=planned.operation,
            input=planned.input,
            priority="low",
            job_id=self._job_id(line),
            expires_at=self._batch.expires_at,
            key=self._batch.key,
            batch_id=self.batch_id,
        )
        while not self._stopped.is_set():
            self._changed.clear()  # From here on `_pause` notices what changes.
            self._open.add(line)  # Before it is asked: from then on the job may be there.
            try:
                await self._bus.ask(SUBMIT_JOB(), job)
            except LostError as error:
                await self._pause(error)
            except RefusedError as error:
                if error.code not in _PASSING:
                    failed = RequestOutcome(status="failed", job_id=self._job_id(line), failure=error.failure)
                    self._end(line, failed)
                    return
                self._open.discard(line)
                await self._pause(error)
            else:
                return

    async def _cancel_open(self) -> None:
        for line in sorted(self._open):
            while line in self._open:
                try:
                    await self._bus.ask(CANCEL_JOB(), CancelJob(job_id=self._job_id(line)))
                    break
                except LostError:
                    await asyncio.sleep(_PAUSE)
                except RefusedError:
                    self._open.discard(line)  # It was never accepted.

    async def _pause(self, error: LostError | RefusedError) -> None:
        """Wait as long as `error` says, or until something has changed: a job that ends leaves room."""
        log.info("batch.waiting", batch_id=self.batch_id, code=error.code)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(error.failure.retry_after or _PAUSE, _LONGEST_PAUSE)):
                await self._changed.wait()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

    def _stop(self) -> None:
        self._stopped.set()
        self._changed.set()

    def _end(self, line: int, outcome: RequestOutcome) -> None:
        self._open.discard(line)
        self._ended[line] = outcome
        self._changed.set()

    async def _store(self) -> Outcomes:
        outcomes = [
            self._ended.get(line) or RequestOutcome(status=self._rest, job_id=self._job_id(line))
            for line in range(1, self._batch.total + 1)
        ]
        async with self._blobs.writing() as draft:
            await asyncio.to_thread(_write, draft, outcomes)
        return Outcomes(blob=draft.name, **self.counts())

    def _job_id(self, line: int) -> str:
        return f"job-{self.batch_id}-{line}"


def _outcome(event: JobCompleted | JobFailed | JobCancelled) -> RequestOutcome:
    if isinstance(event, JobCompleted):
        return RequestOutcome(status="completed", job_id=event.job_id, at=event.at, result_blob=event.result_blob)
    if isinstance(event, JobCancelled):
        return RequestOutcome(status="cancelled", job_id=event.job_id, at=event.at)
    if event.reason == "expired":
        return RequestOutcome(status="expired", job_id=event.job_id, at=event.at)
    # What was refused says itself why; an older Fusion did not record it.
    code = _NAMED.get(event.error_code, _CODES[event.reason])
    failure = Failure(code=code, message=event.error, param=event.error_param)
    return RequestOutcome(status="failed", job_id=event.job_id, at=event.at, failure=failure)


def _write(draft: Draft, outcomes: list[RequestOutcome]) -> None:
    for outcome in outcomes:
        draft.write(_encode(outcome) + b"\n")


_encode = msgspec.json.Encoder().encode
_planned = msgspec.json.Decoder(PlannedRequest)
