"""Decodes the images and videos of requests, in processes that may be killed.

Leaves what a file means to the media_… modules beside it, which run in these processes only.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from actors.engines.engine import Pictures
from actors.limited_child import UnreadableError
from actors.limited_process import LimitedProcess, LimitedProcesses
from actors.media_task import Medium, Sizes, Task
from bus.blobs import Blobs
from bus.errors import RefusedError
from bus.messages.embeddings import ImagePart, VideoPart

# Requests whose pictures are in memory at a time, each with a process of its own.
_AT_ONCE = 2
# Of the decoded pictures of one request.
_REQUEST_BYTES = 512 * 2**20
_NO_ROOM = f"With it the pictures of this request take more than {_REQUEST_BYTES} bytes."

_encode = msgspec.json.Encoder().encode
_sizes = msgspec.json.Decoder(Sizes)


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
        self._processes = LimitedProcesses("actors.media_child", at_once=_AT_ONCE)

    @asynccontextmanager
    async def decoded(self, parts: Mapping[str, ImagePart | VideoPart], frames: int) -> AsyncGenerator[Pictures]:
        """Give the pictures of `parts`, which are by where in the request they stand; of a video so many `frames`.

        Few requests have theirs at a time; the others wait. Raises `RefusedError` whose `param` is where the file
        stands that is gone, too large, or cannot be decoded.
        """
        async with self._processes.borrowed() as process:
            pictures: dict[str, tuple[NDArray[np.uint8], ...]] = {}
            done: set[ImagePart | VideoPart] = set()
            room = _REQUEST_BYTES
            for param, part in parts.items():
                if part in done:
                    continue
                done.add(part)
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
                    pictures[part.blob] = await _decoded(process, task, room)
                except UnreadableError as error:
                    raise RefusedError(
                        "invalid_request", f"The {medium} cannot be read: {error}", param=param
                    ) from error
                room -= sum(picture.nbytes for picture in pictures[part.blob])
            yield pictures

    async def close(self) -> None:
        """End the processes."""
        await self._processes.close()

    async def _find(self, blob: str, param: str) -> Path:
        for place in self._places:
            if path := await place.find(blob):
                return path
        raise RefusedError("invalid_request", f"There is no blob {blob}, or not any more.", param=param)


async def _decoded(process: LimitedProcess, task: Task, room: int) -> tuple[NDArray[np.uint8], ...]:
    about, pixels = await process.ask(_encode(task), task.seconds, room_bytes=room, no_room=_NO_ROOM)
    sizes = _sizes.decode(about)
    ends = list(accumulate(3 * height * width for height, width in sizes))
    flat = np.split(np.frombuffer(pixels, np.uint8), ends[:-1])
    return tuple(each.reshape(*size, 3) for each, size in zip(flat, sizes, strict=True))
