"""Streams: frames, comments while there is nothing to say, and errors after the status line.

Wire facts, measured with the openai clients (python and node): a frame with an `error` object raises APIError;
a stream that just stops raises nothing. So an error is a frame, and `[DONE]` follows only what went well.
Comments reset the clients' read timeout.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from bus.errors import Failure
from bus.frames import Status
from http_edge.context import CONFIG
from http_edge.errors import error_body, format_of
from http_edge.writing import write_patiently

# Bytes. The transport takes four times as much before a writer has to wait.
_ROOM = 16 * 1024

# What is said of a request that runs.
_WORKING = "working"

_HEADERS = {
    "Cache-Control": "no-cache",
    # nginx and its like would otherwise collect the frames.
    "X-Accel-Buffering": "no",
}


class EventStream:
    """One streamed response. The status line goes out with the first thing that is written."""

    def __init__(self, request: web.Request) -> None:
        self._format = format_of(request)
        self.response = web.StreamResponse(headers={"Content-Type": self._format.content_type, **_HEADERS})
        self._request = request
        self._config = request.app[CONFIG]
        self._clock = asyncio.get_running_loop().time
        self._written_at = self._clock()
        self._note = _WORKING

    async def write(self, frames: bytes) -> None:
        """Send `frames`, and wait while the client is slower than we are."""
        if not self.response.prepared:
            await self.open()
        if self._fits(frames):
            await self.response.write(frames)
        else:
            await write_patiently(self._request, self.response, frames)
        self._written_at = self._clock()

    def _fits(self, frames: bytes) -> bool:
        """Say whether `frames` can be written without waiting, and so without a timer."""
        transport = self._request.transport
        return transport is not None and not transport.get_write_buffer_size() and len(frames) <= _ROOM

    async def wait_at(self, status: Status) -> None:
        """Tell where the request stands: its number in the queue, since when its model loads, or how far it is read.

        Said again until a frame comes.
        """
        self._note = _note(status)
        if self._note != _WORKING:
            await self._comment()
        elif not self.response.prepared:
            await self.open()

    async def fail(self, failure: Failure) -> None:
        """End with an error frame."""
        with suppress(ConnectionError):
            await self.write(self._format.frame % error_body(self._request, failure))

    async def comment_when_silent(self) -> None:
        """Write a comment whenever nothing was written for a while. Ends by being cancelled."""
        pause = self._config.sse_comment_seconds
        with suppress(ConnectionError):
            while True:
                await asyncio.sleep(self._written_at + pause - self._clock())
                if not self.response.prepared:
                    self._written_at = self._clock()
                elif self._clock() - self._written_at >= pause:
                    await self._comment()

    async def _comment(self) -> None:
        if self._format.comment is None:
            self._written_at = self._clock()
        else:
            await self.write(self._format.comment % self._note.encode())

    async def open(self) -> None:
        """Send the status line, before there is anything to say."""
        await self.response.prepare(self._request)
        self._request[STREAM] = self
        self._written_at = self._clock()


def _note(status: Status) -> str:
    if status.prefill is not None:
        return f"prefill {status.prefill.done}/{status.prefill.total}"
    if status.loading is not None:
        return f"loading {int(status.loading)}"
    return f"queued {status.position}" if status.position else _WORKING


# In a request whose status line is out: where the middleware then writes an error.
STREAM = web.RequestKey("stream", EventStream)


@asynccontextmanager
async def event_stream(request: web.Request) -> AsyncGenerator[EventStream]:
    """Answer `request` with a stream, commenting on silence until the block ends."""
    stream = EventStream(request)
    comments = asyncio.create_task(stream.comment_when_silent(), name="comments")
    try:
        yield stream
    finally:
        comments.cancel()
        await asyncio.wait((comments,))
