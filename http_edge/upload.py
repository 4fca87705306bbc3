"""A form with files, which are written to the disk as they come, however large."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import BadHttpMessage
from msgspec import Struct

from bus.blobs import Draft, Write
from bus.errors import RefusedError
from http_edge.context import CONFIG
from http_edge.wire import refuse_encoded

T = TypeVar("T")

_PIECE_BYTES = 256 * 1024
_LONGEST_NAME = 255
# What stands around the parts of a form, at most.
_HEADERS_BYTES = 8 * 1024


class Room(Struct, frozen=True, kw_only=True):
    """What a form may have: files under these `names`, and other fields with the most bytes of each.

    There are at most `count` files, each of `file_bytes`, and of `all_bytes` together.
    """

    names: tuple[str, ...]
    file_bytes: int
    fields: Mapping[str, int]
    count: int = 1
    all_bytes: int | None = None

    @property
    def most_bytes(self) -> int:
        """Return how many bytes the files may have together."""
        return self.file_bytes if self.all_bytes is None else self.all_bytes


class File(Struct, frozen=True, kw_only=True):
    """A file that was uploaded; its `draft` has its name when it is stored."""

    filename: str
    content_type: str | None
    draft: Draft


class Form(Struct, frozen=True, kw_only=True):
    """What was uploaded, the files in their order."""

    files: tuple[File, ...]
    fields: Mapping[str, str]


async def read_form(request: web.Request, room: Room, write: Write) -> Form:
    """Return the form in the body, with its files as drafts that `write` gives.

    Raises `RefusedError` when there is no `room` for the form, or the body is none, and `web.HTTPException` when it
    does not come in time.
    """
    _refuse_other_origin(request)
    if request.content_type != "multipart/form-data":
        message = f"Unsupported media type {request.content_type!r}; send Content-Type: multipart/form-data."
        raise RefusedError("invalid_request", message)
    refuse_encoded(request)
    beside = sum(room.fields.values()) + _HEADERS_BYTES * room.count
    if (request.content_length or 0) > room.most_bytes + beside:
        raise _too_large(room)
    return await _FormReader(request, room, write).read()


class _FormReader:
    """Reads one form. aiohttp limits neither the number nor the size of parts that are read piece by piece."""

    def __init__(self, request: web.Request, room: Room, write: Write) -> None:
        self._request = request
        self._room = room
        self._write = write
        self._fields: dict[str, str] = {}
        self._files: list[File] = []
        self._bytes = 0

    async def read(self) -> Form:
        """Return the form. Raises as `read_form` does."""
        reader = await self._in_time(self._request.multipart())
        while (part := await self._in_time(reader.next())) is not None:
            if not isinstance(part, BodyPartReader) or "Content-Transfer-Encoding" in part.headers:
                raise RefusedError("invalid_request", "The parts of the form have to come as they are.")
            if part.name in self._room.names:
                await self._store(part)
            else:
                await self._keep(part)
        return Form(files=tuple(self._files), fields=self._fields)

    async def _store(self, part: BodyPartReader) -> None:
        if len(self._files) == self._room.count:
            most = "one file" if self._room.count == 1 else f"{self._room.count} files"
            raise RefusedError("invalid_request", f"The form has more than {most}.", param=part.name)
        async with self._write() as draft:
            while piece := await self._in_time(part.read_chunk(_PIECE_BYTES)):
                self._bytes += len(piece)
                if draft.size + len(piece) > self._room.file_bytes or self._bytes > self._room.most_bytes:
                    raise _too_large(self._room)
                await asyncio.to_thread(draft.write, piece)
        said = part.headers.get("Content-Type")
        content_type = None if said is None else _text(said)
        self._files.append(File(filename=_text(part.filename or ""), content_type=content_type, draft=draft))

    async def _keep(self, part: BodyPartReader) -> None:
        name, value = _text(part.name or ""), b""
        if name not in self._room.fields:
            raise RefusedError("unsupported_parameter", f"'{name}' is not supported by this server.", param=name)
        if name in self._fields:
            raise RefusedError("invalid_request", f"The form has '{name}' more than once.", param=name)
        while piece := await self._in_time(part.read_chunk(_PIECE_BYTES)):
            value += piece
            if len(value) > self._room.fields[name]:
                raise RefusedError("invalid_request", f"'{name}' is too long.", param=name)
        self._fields[name] = value.decode(errors="replace")

    async def _in_time(self, waiting: Awaitable[T]) -> T:
        """Return the next piece of the body."""
        try:
            async with asyncio.timeout(self._request.app[CONFIG].read_seconds):
                return await waiting
        except TimeoutError as error:
            raise web.HTTPRequestTimeout from error
        # All of these aiohttp raises on a form that is broken, or ends too early.
        except (ValueError, AssertionError, BadHttpMessage, web.RequestPayloadError) as error:
            raise RefusedError("invalid_request", "The body is not a whole form.") from error


def _text(header: str) -> str:
    """Return what a header says, for JSON: bytes that are not UTF-8 are halves of characters in aiohttp's text."""
    return header[:_LONGEST_NAME].encode(errors="replace").decode()


def _refuse_other_origin(request: web.Request) -> None:
    """Raise `RefusedError` when another site's page sends the form: for that browsers ask nobody before."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise RefusedError("invalid_request", f"Pages of {origin[:200]!r} may not upload files here.")


def _too_large(room: Room) -> RefusedError:
    message = f"The file is larger than {room.file_bytes} bytes."
    if room.count > 1:
        message = f"A file is larger than {room.file_bytes} bytes, or all are larger than {room.most_bytes}."
    return RefusedError("too_large", message, param=room.names[0])
