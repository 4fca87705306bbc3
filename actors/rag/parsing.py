"""Reads documents, in processes that may be killed.

Leaves what a file means to the parsing_… modules beside it, which run in these processes only.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from actors.limited_child import UnreadableError
from actors.limited_process import LimitedProcesses
from actors.rag.contents import Parsed
from actors.rag.parsing_task import Task
from bus.errors import RefusedError

# Files that are read at a time, each by a process of its own.
_AT_ONCE = 2
# A text as MessagePack, with its headings, pages and metadata.
_ROOM_PER_TEXT_BYTE = 2
_ROOM_BYTES = 2**20
_NO_ROOM = "Its headings and metadata take more room than its text."

_encode = msgspec.json.Encoder().encode
_parsed = msgspec.msgpack.Decoder(Parsed)


class ParserLimits(Struct, frozen=True, kw_only=True):
    """What a document may be: bytes of its file, pages, bytes of its text in UTF-8, and seconds to read it.

    `address_bytes` are those of the process that reads it, where the system limits them; a quarter of that is what an
    archive may take when it is unpacked.
    """

    most_bytes: int
    seconds: float
    address_bytes: int
    most_pages: int = 5000
    most_text_bytes: int = 50_000_000


class Parser:
    """Turns files into texts."""

    def __init__(self, limits: ParserLimits) -> None:
        self._limits = limits
        self._processes = LimitedProcesses("actors.rag.parsing_child", str(limits.address_bytes), at_once=_AT_ONCE)

    async def parse(self, path: Path, filename: str, content_type: str | None) -> Parsed:
        """Return what the document at `path` says; what it is, is told by its bytes, its type and its name.

        Few are read at a time; the others wait. Raises `RefusedError`, which says why it cannot be read.
        """
        limits = self._limits
        task = Task(
            path=str(path),
            filename=filename,
            content_type=content_type,
            most_bytes=limits.most_bytes,
            most_pages=limits.most_pages,
            most_text_bytes=limits.most_text_bytes,
            most_unpacked_bytes=limits.address_bytes // 4,
            seconds=limits.seconds,
        )
        room = _ROOM_BYTES + _ROOM_PER_TEXT_BYTE * limits.most_text_bytes
        try:
            async with self._processes.borrowed() as process:
                _, content = await process.ask(_encode(task), limits.seconds, room_bytes=room, no_room=_NO_ROOM)
        except UnreadableError as error:
            raise RefusedError("invalid_request", f"The document cannot be read: {error}") from error
        return _parsed.decode(content)

    async def close(self) -> None:
        """End the processes."""
        await self._processes.close()
