"""Decodes the images and videos of requests, in child processes that may be killed.

Leaves what a file means to the media_… modules beside it, which run in the child only. A child stays for the next
file, because starting one takes longer than decoding an image.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import accumulate
from pathlib import Path

import msgspec
import numpy as np
import structlog
from msgspec import Struct
from numpy.typing import NDArray

from actors.engines.engine import Pictures
from actors.media_task import Medium, Reply, Task
from bus.blobs import Blobs
from bus.errors import RefusedError
from bus.messages.embeddings import ImagePart, VideoPart

log = structlog.get_logger()

# Requests whose pictures are in memory at a time, each with a child of its own.
_AT_ONCE = 2
# Of the decoded pictures of one request.
_REQUEST_BYTES = 512 * 2**20
# Whatever a decoder loses ends with its child; none was seen to grow.
_FILES_PER_CHILD = 500
_READ_BYTES = 2**20

_encode = msgspec.json.Encoder().encode
_reply = msgspec.json.Decoder(Reply)


class MediaLimits(Struct, frozen=True, kw_only=True):
    """What a file may be: bytes as it is encoded, pixels of one picture, and seconds to decode it."""

    most_bytes: int
    most_pixels: int
    seconds: float


class Media:
    """Finds files by the names of their blobs, and decodes them."""

    def __init__(self, places: Sequence[Blobs], limits: MediaLimits) -> None:
        """Look for files in `places`, in this order."""
        self._places = places
        self._limits = limits
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._idle: list[_Child] = []

    @asynccontextmanager
    async def decoded(self, parts: Mapping[str, ImagePart | VideoPart], frames: int) -> AsyncGenerator[Pictures]:
        """Give the pictures of `parts`, which are by where in the request they stand; of a video so many `frames`.

        Few requests have theirs at a time; the others wait. Raises `RefusedError` whose `param` is where the file
        stands that is gone, too large, or cannot be decoded.
        """
        async with self._turns, self._child() as child:
            pictures: dict[str, tuple[NDArray[np.uint8], ...]] = {}
            room = _REQUEST_BYTES
            for param, part in parts.items():
                if part.blob in pictures:
                    continue
                medium: Medium = "video" if isinstance(part, VideoPart) else "image"
                path = await self._find(part.blob, param)
                task = Task(
                    medium=medium,
                    path=str(path),
                    frames=frames,
                    most_bytes=self._limits.most_bytes,
                    most_pixels=self._limits.most_pixels,
                    seconds=self._limits.seconds,
                )
                try:
                    pictures[part.blob] = await child.decode(task, room)
                except _BadFileError as error:
                    raise RefusedError(
                        "invalid_request", f"The {medium} cannot be read: {error}", param=param
                    ) from error
                room -= sum(picture.nbytes for picture in pictures[part.blob])
            yield pictures

    async def close(self) -> None:
        """End the children."""
        while self._idle:
            await self._idle.pop().end()

    async def _find(self, blob: str, param: str) -> Path:
        for place in self._places:
            if path := await place.find(blob):
                return path
        raise RefusedError("invalid_request", f"There is no blob {blob}, or not any more.", param=param)

    @asynccontextmanager
    async def _child(self) -> AsyncGenerator["_Child"]:
        while self._idle:
            child = self._idle.pop()
            if child.is_good:
                break
            await child.end()
        else:
            child = await _Child.start()
        try:
            yield child
        finally:
            if child.is_good:
                self._idle.append(child)
            else:
                await child.end()


class _Child:
    """One child process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._files = 0
        self._is_working = False

    @classmethod
    async def start(cls) -> "_Child":
        """Start a process."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", "actors.media_child"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_READ_BYTES,
        )
        return cls(process)

    @property
    def is_good(self) -> bool:
        """Whether it can decode another file."""
        return self._process.returncode is None and not self._is_working and self._files < _FILES_PER_CHILD

    async def decode(self, task: Task, room: int) -> tuple[NDArray[np.uint8], ...]:
        """Return the pictures. Raises `_BadFileError`, after which it may not be good any more."""
        self._is_working = True
        try:
            async with asyncio.timeout(task.seconds):
                reply, pixels = await self._asked(task, room)
        except TimeoutError as error:
            raise _BadFileError(f"It takes longer than {task.seconds:g} s to decode.") from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            log.warning("media.child_ended", medium=task.medium, path=task.path)
            raise _BadFileError("It cannot be decoded.") from error
        self._is_working = False
        self._files += 1
        if reply.error:
            raise _BadFileError(reply.error)
        ends = list(accumulate(3 * height * width for height, width in reply.sizes))
        flat = np.split(np.frombuffer(pixels, np.uint8), ends[:-1])
        return tuple(each.reshape(*size, 3) for each, size in zip(flat, reply.sizes, strict=True))

    async def end(self) -> None:
        """Kill it."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _asked(self, task: Task, room: int) -> tuple[Reply, bytes]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - it is a pipe
        assert stdout is not None  # noqa: S101 - the same
        stdin.write(_encode(task) + b"\n")
        reply = _reply.decode(await stdout.readuntil(b"\n"))
        if reply.pixel_bytes > room:
            raise _BadFileError(f"With it the pictures of this request take more than {_REQUEST_BYTES} bytes.")
        return reply, await stdout.readexactly(reply.pixel_bytes)


class _BadFileError(Exception):
    """What is wrong with a file, in a sentence."""
