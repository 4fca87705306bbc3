"""The jobs actor: accepts jobs, tells how they stand, and takes the order to cancel them.

Listens on  fusion.jobs.submit, fusion.jobs.get, fusion.jobs.cancel
Owns        the admission of jobs: it alone records that a job was queued
Never       runs a job, or keeps any state of its own: the log is the state
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from actors.supervisor import Child
from bus.blobs import Blobs
from bus.client import Bus
from bus.decoding import decode
from bus.errors import ConflictError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from bus.messages.chat import ChatRequest
from bus.messages.embeddings import EmbedRequest
from bus.messages.jobs import CancelJob, GetJob, JobReply, SubmitJob
from bus.messages.models import ModelCard
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.streams import purge_job
from bus.subjects import CANCEL_JOB, GET_JOB, SUBMIT_JOB
from eventlog.events import JobCancelled, JobQueued
from eventlog.job import Job, Stamp, decide_cancel, fold

log = structlog.get_logger()

_KINDS = {"chat": "chat", "embed": "embeddings"}
_INPUTS: dict[str, msgspec.json.Decoder[Any]] = {
    "chat": msgspec.json.Decoder(ChatRequest),
    "embed": msgspec.json.Decoder(EmbedRequest),
}
_INLINE_BYTES = 512 * 1024
_METADATA_BYTES = 16 * 1024


class Jobs:
    """Answers for all jobs."""

    def __init__(
        self,
        events: EventLog,
        blobs: Blobs,
        find: Callable[[str], Awaitable[ModelCard]],
        dequeue: Callable[[str], Awaitable[None]],
    ) -> None:
        self._events = events
        self._blobs = blobs
        self._find = find
        self._dequeue = dequeue

    async def submit(self, request: SubmitJob, _: Caller) -> AsyncGenerator[JobReply]:
        """Record that the job is queued, which also enqueues it, and answer when that is stored."""
        model = await self._check(request)
        job_id = request.job_id or new_id("job")
        queued = JobQueued(
            id=new_id(),
            at=datetime.now(UTC),
            job_id=job_id,
            model=model,
            operation=request.operation,
            priority=request.priority,
            input_blob=await self._blobs.put(bytes(request.input)),
            metadata=request.metadata,
        )
        try:
            await self._events.record_next(queued, after=0)
        except ConflictError:
            await self._check_same(queued)
            log.info("job.known", job_id=job_id)
            yield await self._reply(job_id)
            return
        log.info("job.queued", job_id=job_id, model=model, operation=request.operation)
        yield _reply(fold([queued]))

    async def get(self, request: GetJob, _: Caller) -> AsyncGenerator[JobReply]:
        """Answer from the log itself, so that a job is there as soon as it was accepted."""
        yield await self._reply(request.job_id)

    async def cancel(self, request: CancelJob, _: Caller) -> AsyncGenerator[JobReply]:
        """Ask for the job's end.

        A queued one has ended when this answers. A running one is ended by its worker, or, if that has died, by
        the next that is handed the job.
        """
        while True:
            job, last = await self._job(request.job_id)
            try:
                event = decide_cancel(job, _stamp())
                if event is not None:
                    last = await self._events.record_next(event, after=last)
                if job.status == "queued":
                    stamp = _stamp()
                    cancelled = JobCancelled(id=stamp.id, at=stamp.at, job_id=job.job_id)
                    await self._events.record_next(cancelled, after=last)
                    # Only tidiness: a worker that is handed the job sees in the log that it has ended.
                    await self._dequeue(job.job_id)
                break
            except ConflictError:
                continue  # A worker was faster: look again.
        yield await self._reply(request.job_id)

    async def _check(self, request: SubmitJob) -> str:
        """Return the id of the model that is asked. Raises `RefusedError`, or `LostError` when nobody knows it."""
        try:
            card = await self._find(request.model)
        except RefusedError as error:
            raise RefusedError(error.code, error.failure.message, param="model_id") from error
        if card.kind != _KINDS[request.operation]:
            message = f"The model '{request.model}' is for {card.kind} and cannot do '{request.operation}'."
            raise RefusedError("invalid_request", message, param="operation")
        if len(msgspec.json.encode(request.metadata)) > _METADATA_BYTES:
            raise RefusedError("too_large", "The metadata is larger than 16 KiB.", param="metadata")
        try:
            decode(_INPUTS[request.operation], bytes(request.input))
        except RefusedError as error:
            param = f"input.{error.failure.param}" if error.failure.param else "input"
            raise RefusedError(error.code, error.failure.message, param=param) from error
        return card.id

    async def _check_same(self, queued: JobQueued) -> None:
        job, _ = await self._job(queued.job_id)
        if (job.model, job.operation, job.input_blob) != (queued.model, queued.operation, queued.input_blob):
            message = f"The job '{queued.job_id}' was submitted before with another input, operation or model."
            raise RefusedError("conflict", message, param="job_id")

    async def _job(self, job_id: str) -> tuple[Job, int]:
        recorded = await self._events.read_job(job_id)
        job = fold([item.event for item in recorded])
        if job is None:
            raise RefusedError("job_not_found", f"There is no job '{job_id}'.", param="job_id")
        return job, recorded[-1].seq

    async def _reply(self, job_id: str) -> JobReply:
        job, _ = await self._job(job_id)
        result = await self._blobs.get(job.result_blob) if job.result_blob else None
        return _reply(job, result)


def _reply(job: Job | None, result: bytes | None = None) -> JobReply:
    assert job is not None  # noqa: S101 - it was just queued, or found
    return JobReply(
        job_id=job.job_id,
        status=job.status,
        model=job.model,
        operation=job.operation,
        priority=job.priority,
        created_at=job.created_at,
        attempts=job.attempts,
        started_at=job.started_at,
        completed_at=job.completed_at,
        result=msgspec.Raw(result) if result is not None and len(result) <= _INLINE_BYTES else msgspec.UNSET,
        result_blob=job.result_blob,
        error=job.error,
        reason=job.reason,
        metadata=job.metadata,
    )


def _stamp() -> Stamp:
    return Stamp(new_id(), datetime.now(UTC))


def child(bus: Bus, blobs: Blobs, find: Callable[[str], Awaitable[ModelCard]], keep_days: int, instance: str) -> Child:
    """Return what the supervisor needs to run this actor. `find` returns a model of the catalogue, or refuses."""

    async def run() -> None:
        jobs = Jobs(EventLog(bus), blobs, find, lambda job_id: purge_job(bus.nc, job_id))
        info = ServiceInfo(
            name="fusion-jobs",
            instance=instance,
            description="Accepts jobs, tells how they stand, cancels them",
        )
        endpoints = (
            Endpoint(SUBMIT_JOB(), jobs.submit),
            Endpoint(GET_JOB(), jobs.get),
            Endpoint(CANCEL_JOB(), jobs.cancel),
        )
        async with serving(bus, info, *endpoints):
            while True:
                forgotten = await blobs.forget(keep_days * 24 * 3600)
                log.debug("blobs.forgotten", count=forgotten)
                await asyncio.sleep(3600)

    return Child("jobs", run)
