"""Jobs on behalf of a request: submitted once for each `Idempotency-Key`, waited for, and their results."""

import asyncio
import hashlib
from contextlib import suppress

from aiohttp import web
from msgspec import UNSET, Raw

from bus.errors import RefusedError
from bus.events import EventLog
from bus.messages.jobs import GetJob, JobReply, SubmitJob
from bus.subjects import GET_JOB, JOB_FEED, SUBMIT_JOB, fill
from eventlog.job import JobStatus
from http_edge.context import BLOBS, BUS
from http_edge.keys import fingerprint

ENDED: frozenset[JobStatus] = frozenset(("completed", "failed", "cancelled"))

# The feed tells each event at most once, so the job is looked at when nothing was heard for so long, in seconds.
_QUIET = 5.0


def job_id_of(request: web.Request) -> str | None:
    """Return the id that the job of this client with this `Idempotency-Key` has; None without such a header."""
    named = request.headers.get("Idempotency-Key")
    if not named:
        return None
    # Bytes of a header that are no UTF-8 come as surrogates.
    told = f"{fingerprint(request) or ''} {named}".encode(errors="surrogateescape")
    return f"job-{hashlib.sha256(told).hexdigest()[:32]}"


async def submitted(request: web.Request, job: SubmitJob) -> JobReply:
    """Return the job as it was accepted, or was before under the same id. Raises as `Bus.ask` does."""
    try:
        return await request.app[BUS].ask(SUBMIT_JOB(), job)
    except RefusedError as error:
        if error.code != "conflict":
            raise
        reason = "This 'Idempotency-Key' was used before with another input, operation or model."
        raise RefusedError("conflict", reason, param="Idempotency-Key") from error


async def ended(request: web.Request, job_id: str) -> JobReply:
    """Wait until the job has ended, for as long as that takes, and return it. Who stops waiting does not end it."""
    bus = request.app[BUS]
    async with EventLog(bus).hearing(fill(JOB_FEED, job_id)) as heard:
        while True:
            heard.clear()
            job = await bus.ask(GET_JOB(), GetJob(job_id=job_id))
            if job.status in ENDED:
                return job
            with suppress(TimeoutError):
                async with asyncio.timeout(_QUIET):
                    await heard.wait()


async def result_of(request: web.Request, job: JobReply) -> Raw | None:
    """Return the result of the job as JSON; None while there is none, or when it is not kept any more."""
    if job.result is not UNSET and bytes(job.result) != b"null":
        return job.result
    content = None if job.result_blob is None else await request.app[BLOBS].get(job.result_blob)
    return None if content is None else Raw(content)
