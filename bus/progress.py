"""How far running jobs are: of each the last word, which the server keeps in memory."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from bus.client import Bus, whole
from bus.messages.jobs import JobProgress
from bus.subjects import PROGRESS, fill

_PATIENCE = 1.0

_decoder = msgspec.json.Decoder(JobProgress)


async def say_progress(bus: Bus, job_id: str, progress: JobProgress) -> None:
    """Say how far the job is. What cannot be said is left out: the next word takes its place."""
    with suppress(NatsError):
        await bus.publish(fill(PROGRESS, job_id), progress)


async def progress_of(nc: Client, job_id: str) -> JobProgress | None:
    """Return what was last said of the job; None where nothing was, or the server does not answer."""
    try:
        msg = await whole(nc.request(f"$JS.API.DIRECT.GET.PROGRESS.{fill(PROGRESS, job_id)}", timeout=_PATIENCE))
    except (NatsError, TimeoutError):
        return None
    return None if "Status" in (msg.headers or {}) else _read(msg)


@asynccontextmanager
async def hearing_progress(bus: Bus, job_id: str, heard: asyncio.Event) -> AsyncGenerator[list[JobProgress]]:
    """Put what is said of the job into the list, and set `heard`, until the block ends."""
    said: list[JobProgress] = []

    async def on_progress(msg: Msg) -> None:
        progress = _read(msg)
        if progress is not None:
            said[:] = [progress]
            heard.set()

    subscription = await bus.nc.subscribe(fill(PROGRESS, job_id), cb=on_progress)
    try:
        yield said
    finally:
        if not bus.nc.is_closed:
            await subscription.unsubscribe()


def _read(msg: Msg) -> JobProgress | None:
    with suppress(msgspec.DecodeError):
        return _decoder.decode(msg.data)
    return None
