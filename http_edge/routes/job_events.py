"""/api/mcp/jobs/{job_id}/events, and the same under /v1/jobs: what happened to a job, and what happens to it."""

import asyncio
from contextlib import suppress

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from bus.errors import RefusedError
from bus.events import EventLog
from bus.messages.jobs import JobProgress
from bus.progress import hearing_progress
from bus.subjects import JOB_FEED, fill
from eventlog.events import JobCancelled, JobCompleted, JobFailed, Recorded, Unknown
from http_edge.context import BUS
from http_edge.routes.jobs import PREFIXES, path_job_id
from http_edge.sse import EventStream, event_stream
from http_edge.wire import json_response

# The feed tells each event at most once, so the log is looked at when nothing was heard for so long, in seconds.
_QUIET = 5.0

# A sequence has 64 bits.
_MOST_DIGITS = 20

_ENDS = (JobCompleted, JobFailed, JobCancelled)


class JobEvents(Struct, frozen=True, kw_only=True):
    """The events of a job as they were recorded, oldest first, each with its sequence in the log."""

    events: tuple[Raw, ...]


async def events(request: web.Request) -> web.StreamResponse:
    """Tell what happened to a job; to those who accept an event stream also what happens, until it has ended."""
    job_id = path_job_id(request)
    if "text/event-stream" not in request.headers.get("Accept", ""):
        story = await _read(EventLog(request.app[BUS]), job_id)
        return json_response(JobEvents(events=tuple(Raw(_with_seq(item)) for item in story)))
    return await _stream(request, job_id, _last_seen(request))


async def _stream(request: web.Request, job_id: str, seen: int) -> web.StreamResponse:
    """Stream the events behind sequence `seen`, and between them how far the job is.

    What was seen to its end is answered so that clients stop asking.
    """
    bus = request.app[BUS]
    log = EventLog(bus)
    # Heard before the log is read, so that nothing falls in between.
    async with (
        log.hearing(fill(JOB_FEED, job_id)) as heard,
        hearing_progress(bus, job_id, heard) as said,
    ):
        story = await _read(log, job_id)
        if _has_ended(story) and story[-1].seq <= seen:
            return web.Response(status=204)
        async with event_stream(request) as stream:
            while True:
                seen = await _tell(stream, story, seen)
                if _has_ended(story):
                    return stream.response
                with suppress(TimeoutError):
                    async with asyncio.timeout(_QUIET):
                        await heard.wait()
                heard.clear()
                while said:
                    await stream.write(_progress_frame(said.pop()))
                story = await _read(log, job_id)


async def _tell(stream: EventStream, story: list[Recorded], seen: int) -> int:
    """Write the events behind `seen`, and return the sequence of the last one."""
    frames = b"".join(_frame(item) for item in story if item.seq > seen)
    if frames:
        await stream.write(frames)
    return max(seen, story[-1].seq)


async def _read(log: EventLog, job_id: str) -> list[Recorded]:
    story = [item for item in await log.read_job(job_id) if _kind(item)]
    if not story:
        raise RefusedError("job_not_found", f"There is no job '{job_id}'.", param="job_id")
    return story


def _has_ended(story: list[Recorded]) -> bool:
    return any(isinstance(item.event, _ENDS) for item in story)


def _last_seen(request: web.Request) -> int:
    text = request.headers.get("Last-Event-ID", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise RefusedError("invalid_request", "'Last-Event-ID' has to be the id of an event.", param="Last-Event-ID")
    return int(text)


def _frame(item: Recorded) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (item.seq, _kind(item).encode(), _with_seq(item))


def _progress_frame(progress: JobProgress) -> bytes:
    """Return a frame without an id: who asks again with the last one misses no event by it."""
    return b"event: progress\ndata: %b\n\n" % msgspec.json.encode(progress)


def _kind(item: Recorded) -> str:
    """Return the type of the event; an empty text for what is no event at all."""
    if not isinstance(item.event, Unknown):
        return str(type(item.event).__struct_config__.tag)
    return item.event.kind if item.event.kind.isprintable() else ""


def _with_seq(item: Recorded) -> bytes:
    return msgspec.json.encode({"seq": item.seq} | msgspec.json.decode(item.raw, type=dict[str, Raw]))


ROUTES = [web.get(prefix + "/{job_id}/events", events) for prefix in PREFIXES]
