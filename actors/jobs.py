"""The jobs actor: accepts jobs, tells how they stand, and ends those that nobody wants or can do any more.

Listens on  fusion.jobs.submit, fusion.jobs.get, fusion.jobs.cancel, fusion.jobs.replay, fusion.jobs.refuse
Owns        the admission of jobs: it alone records that a job was queued or scheduled
Never       runs a job, or keeps a state that is not in the log
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

import structlog
from msgspec import Struct

from actors.admission import Admission
from actors.config import ActorsConfig
from actors.estimates import Estimates
from actors.job_follower import follow_jobs
from actors.job_orders import ACTORS, Source, accepted, check_order, decide_times, expiry, replayed
from actors.job_replies import JobReplies
from actors.job_timer import Timing, keep_time
from actors.open_jobs import OpenJobs
from actors.supervisor import Child
from actors.sweeper import sweep
from actors.webhook_address import Addresses
from bus.blobs import Blobs, blob_name
from bus.client import Bus
from bus.errors import ConflictError, LostError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from bus.messages.jobs import CancelJob, GetJob, JobProgress, JobReply, JobsRefused, RefuseJobs, ReplayJob, SubmitJob
from bus.messages.models import ModelCard
from bus.progress import progress_of
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.streams import purge_job, stream_fill
from bus.subjects import CANCEL_JOB, GET_JOB, REFUSE_JOBS, REPLAY_JOB, SUBMIT_JOB
from eventlog.events import JobCancelled, JobFailed, JobQueued, JobScheduled
from eventlog.job import Job, Stamp, decide_cancel, fold

log = structlog.get_logger()

# Every client reads a number below it as what it is.
_SEEDS = 2**31


class Others(Struct, frozen=True, kw_only=True):
    """What the actor asks of others: a model of the catalogue, which part of the log is full, and which lives.

    `dequeue` takes a job off the work queue, `progress` tells how far a running one is.
    """

    find: Callable[[str], Awaitable[ModelCard]]
    fill: Callable[[], Awaitable[float]]
    is_alive: Callable[[str], bool]
    dequeue: Callable[[str], Awaitable[None]]
    progress: Callable[[str], Awaitable[JobProgress | None]]


class Jobs:
    """Answers for all jobs."""

    def __init__(
        self, events: EventLog, blobs: Blobs, open_jobs: OpenJobs, config: ActorsConfig, others: Others
    ) -> None:
        self._events = events
        self._blobs = blobs
        self._open = open_jobs
        self._config = config
        self._addresses = Addresses(config.webhook_networks)
        self._others = others
        self._admission = Admission(open_jobs, others.fill, config.max_queued_jobs)
        self._replies = JobReplies(events, blobs, open_jobs, others.progress)

    async def submit(self, request: SubmitJob, _: Caller) -> AsyncGenerator[JobReply]:
        """Record that the job is queued, which also enqueues it, or scheduled; answer when that is stored."""
        card = None if request.operation in ACTORS else await self._model(request.model)
        if request.callback_url is not None:
            self._addresses.refuse_url(request.callback_url, "callback_url")
        seed = secrets.randbelow(_SEEDS) if check_order(request, card) else None
        content = bytes(request.input)
        source = Source(model=card.id if card else request.model, input_blob=blob_name(content), seed=seed)
        try:
            stamp = _stamp()
            times = decide_times(request, stamp.at, self._config)
            event = accepted(request, stamp, request.job_id or new_id("job"), source, times)
            reply = await self._accept(event, content)
        except (ConflictError, RefusedError):
            known = await self._known(request, source)
            if known is None:
                raise
            reply = known
        yield reply

    async def get(self, request: GetJob, _: Caller) -> AsyncGenerator[JobReply]:
        """Answer from the log itself, so that a job is there as soon as it was accepted."""
        yield await self._replies.of_id(request.job_id)

    async def cancel(self, request: CancelJob, _: Caller) -> AsyncGenerator[JobReply]:
        """Ask for the job's end.

        A queued one has ended when this answers. A running one is ended by its worker, or, if that has died, by
        the next that is handed the job.
        """
        while True:
            job, last = await self._replies.job(request.job_id)
            try:
                event = decide_cancel(job, _stamp())
                if event is not None:
                    last = await self._events.record_next(event, after=last)
                if job.status == "queued":
                    stamp = _stamp()
                    cancelled = JobCancelled(id=stamp.id, at=stamp.at, job_id=job.job_id)
                    self._open.take(await self._events.record_next(cancelled, after=last), cancelled)
                    if job.queued_at is not None:
                        with suppress(LostError):  # Only tidiness: a worker that has it sees in the log that it ended.
                            await self._others.dequeue(job.job_id)
                break
            except ConflictError:
                continue  # A worker was faster: look again.
        yield await self._replies.of_id(request.job_id)

    async def replay(self, request: ReplayJob, _: Caller) -> AsyncGenerator[JobReply]:
        """Queue a job like one that has ended, and answer when that is stored."""
        first, _seq = await self._replies.job(request.job_id)
        if not first.is_final:
            message = f"The job '{first.job_id}' is {first.status}; it can be replayed when it has ended."
            raise RefusedError("conflict", message, param="job_id")
        if first.operation not in ACTORS:
            await self._model(first.model)
        if not await self._blobs.renew(first.input_blob):
            message = f"The input of the job '{first.job_id}' is not kept any more."
            raise RefusedError("conflict", message, param="job_id")
        # What an actor does, it does to what belongs to a key: again to the same.
        key = first.key if first.operation in ACTORS else request.key
        stamp = _stamp()
        event = replayed(first, stamp, new_id("job"), expiry(stamp.at, stamp.at, self._config), key)
        yield await self._accept(event)

    async def refuse(self, request: RefuseJobs, _: Caller) -> AsyncGenerator[JobsRefused]:
        """End the queued jobs of a model that cannot be loaded, and those whose worker has died."""
        count = 0
        for one in self._open.of_model(request.model):
            is_queued = one.job.status == "queued" and one.place is not None
            is_lost = one.job.status == "processing" and not self._others.is_alive(one.actor or "")
            if is_queued or is_lost:
                count += await self._end(one.job, request.error)
        log.warning("jobs.refused", model=request.model, count=count, error=request.error)
        yield JobsRefused(count=count)

    async def _model(self, name: str) -> ModelCard:
        """Return the model that is asked. Raises `RefusedError`, or `LostError` when nobody knows it."""
        try:
            return await self._others.find(name)
        except RefusedError as error:
            raise RefusedError(error.code, error.failure.message, param="model_id") from error

    async def _accept(self, event: JobQueued | JobScheduled, content: bytes | None = None) -> JobReply:
        """Record the first event of a job, whose input is `content` if that is not stored yet.

        Raises `ConflictError` when the job is known, and `RefusedError` when there is no room for it.
        """
        await self._admission.check_storage()
        with self._admission.admitting(event.model, event.operation, event.priority):
            if content is not None:
                await self._blobs.put(content)
            self._open.take(await self._events.record_next(event, after=0), event)
        log.info("job.accepted", job_id=event.job_id, model=event.model, operation=event.operation)
        job = fold([event])
        assert job is not None  # noqa: S101 - it begins with this event
        return await self._replies.of(job)

    async def _known(self, request: SubmitJob, source: Source) -> JobReply | None:
        """Return the job if it was submitted before. Raises `RefusedError` if that was another one."""
        job = fold([item.event for item in await self._events.read_job(request.job_id)]) if request.job_id else None
        if job is None:
            return None
        if (job.model, job.operation, job.input_blob) != (source.model, request.operation, source.input_blob):
            message = f"The job '{job.job_id}' was submitted before with another input, operation or model."
            raise RefusedError("conflict", message, param="job_id")
        log.info("job.known", job_id=job.job_id)
        return await self._replies.of(job)

    async def _end(self, known: Job, error: str) -> bool:
        """Record that the job fails because its model cannot be loaded; return whether that was so."""
        stamp, job_id = _stamp(), known.job_id
        job, last = await self._replies.job(job_id)
        if job.status != known.status:
            return False  # A worker, or a cancel, was faster.
        failed = JobFailed(id=stamp.id, at=stamp.at, job_id=job_id, reason="model_unavailable", error=error)
        try:
            self._open.take(await self._events.record_next(failed, after=last), failed)
        except ConflictError:
            return False  # The same.
        with suppress(LostError):  # Only tidiness.
            await self._others.dequeue(job_id)
        return True


def _stamp() -> Stamp:
    return Stamp(new_id(), datetime.now(UTC))


def child(
    bus: Bus, blobs: Blobs, find: Callable[[str], Awaitable[ModelCard]], config: ActorsConfig, instance: str
) -> Child:
    """Return what the supervisor needs to run this actor. `find` returns a model of the catalogue, or refuses."""

    async def run() -> None:
        changed, loaded = asyncio.Event(), asyncio.Event()
        open_jobs = OpenJobs(Estimates(), changed.set)
        events = EventLog(bus)
        others = Others(
            find=find,
            fill=lambda: stream_fill(bus.nc, "EVENTS"),
            is_alive=lambda name: any(each.instance == name for each in bus.presence.instances),
            dequeue=lambda job_id: purge_job(bus.nc, job_id),
            progress=lambda job_id: progress_of(bus.nc, job_id),
        )
        jobs = Jobs(events, blobs, open_jobs, config, others)
        timing_of = Timing(
            events=events,
            open_jobs=open_jobs,
            changed=changed,
            dequeue=others.dequeue,
            run_timeout=config.job_run_timeout,
        )
        info = ServiceInfo(
            name="fusion-jobs",
            instance=instance,
            description="Accepts jobs, tells how they stand, ends them",
        )
        endpoints = (
            Endpoint(SUBMIT_JOB(), jobs.submit),
            Endpoint(GET_JOB(), jobs.get),
            Endpoint(CANCEL_JOB(), jobs.cancel),
            Endpoint(REPLAY_JOB(), jobs.replay),
            Endpoint(REFUSE_JOBS(), jobs.refuse),
        )
        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow_jobs(bus, open_jobs, loaded))
            await loaded.wait()
            timing = group.create_task(keep_time(timing_of))
            try:
                async with serving(bus, info, *endpoints):
                    await sweep(blobs, config.job_ttl_days * 24 * 3600)
            finally:
                following.cancel()
                timing.cancel()

    return Child("jobs", run)
