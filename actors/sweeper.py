"""Deletes the blobs that are too old to be needed by anybody."""

import asyncio

import structlog

from actors.supervisor import Child
from bus.blobs import Blobs

log = structlog.get_logger()

# What is uploaded for one request is removed with it; after so many seconds only a crash can have left it.
_UPLOADS = 3600.0
_PERIOD = 3600.0


async def sweep(blobs: Blobs, seconds: float) -> None:
    """Delete what was stored longer ago, within an hour or a twelfth of that time."""
    while True:
        log.debug("blobs.forgotten", count=await blobs.forget(seconds))
        await asyncio.sleep(min(_PERIOD, seconds / 12))


def child(uploads: Blobs) -> Child:
    """Return what the supervisor needs to have the uploads swept."""
    return Child("uploads", lambda: sweep(uploads, _UPLOADS))
