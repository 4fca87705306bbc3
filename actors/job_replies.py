"""Tells how jobs stand: what the log has of them, where they are in the queue, and how a replay compares."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from actors.comparison import compare
from actors.job_orders import ACTORS
from actors.open_jobs import OpenJobs
from bus.blobs import Blobs
from bus.errors import RefusedError
from bus.events import EventLog
from bus.messages.jobs import Comparison, JobProgress, JobReply
from eventlog.job import Job, fold

_INLINE_BYTES = 512 * 1024


class JobReplies:
    """Reads jobs from the log, so that one is there as soon as it was accepted."""

    def __init__(
        self,
        events: EventLog,
        blobs: Blobs,
        open_jobs: OpenJobs,
        progress: Callable[[str], Awaitable[JobProgress | None]],
    ) -> None:
        self._events = events
        self._blobs = blobs
        self._open = open_jobs
        self._progress = progress

    async def job(self, job_id: str) -> tuple[Job, int]:
        """Return the job and the sequence of its last event. Raises `RefusedError` when there is none."""
        recorded = await self._events.read_job(job_id)
        job = fold([item.event for item in recorded])
        if job is None:
            raise RefusedError("job_not_found", f"There is no job '{job_id}'.", param="job_id")
        return job, recorded[-1].seq

    async def of_id(self, job_id: str) -> JobReply:
        """Return how the job stands. Raises `RefusedError` when there is none."""
        job, _ = await self.job(job_id)
        return await self.of(job)

    async def of(self, job: Job) -> JobReply:
        """Return how `job` stands, with its result if that is not too large."""
        result = await self._blobs.get(job.result_blob) if job.result_blob else None
        says_progress = job.status == "processing" and job.operation in ACTORS
        left = None if job.is_final else self._open.completion(job.job_id, datetime.now(UTC))
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
            error_code=job.error_code,
            error_param=job.error_param,
            reason=job.reason,
            metadata=job.metadata,
            estimated_completion_ms=None if left is None else round(left * 1000),
            position=self._open.position_of(job.job_id) if job.status == "queued" else None,
            run_at=job.run_at,
            expires_at=job.expires_at,
            run_timeout=job.run_timeout,
            max_attempts=job.max_attempts,
            callback_url=job.callback_url,
            seed=job.seed,
            revision=job.revision,
            cancel_requested=job.cancel_requested,
            batch_id=job.batch_id,
            replay_of=job.replay_of,
            comparison=await self._comparison(job, job.replay_of, result) if job.replay_of else None,
            progress=await self._progress(job.job_id) if says_progress else None,
        )

    async def _comparison(self, job: Job, replay_of: str, result: bytes | None) -> Comparison | None:
        if not job.is_final:
            return None
        first = fold([item.event for item in await self._events.read_job(replay_of)])
        before = await self._blobs.get(first.result_blob) if first and first.result_blob else None
        return compare(replay_of, first, job, before, result)
