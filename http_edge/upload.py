"""A form with a file, which is written to the disk as it comes, however large."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import BadHttpMessage
from msgspec import Struct

from bus.blobs import Draft
from bus.errors import RefusedError
from http_edge.context import CONFIG
from http_edge.wire import refuse_encoded

T = TypeVar("T")

_PIECE_BYTES = 256 * 1024
_LONGEST_NAME = 255
# What stands around the parts of a form, at most.
_HEADERS_BYTES = 8 * 1024

Writing = Callable[[], AbstractAsyncContextManager[Draft]]


class Form(Struct, frozen=True, kw_only=True):
    """What was uploaded. `file` is there unless the form has none; it has its name when it is kept."""

    filename: str
    file: Draft | None
    fields: Mapping[str, str]


@asynccontextmanager
async def reading_form(
    request: web.Request, name: str, limit: int, fields: Mapping[str, int], writing: Writing
) -> AsyncGenerator[Form]:
    """Give the form in the body, with the file called `name` of at most `limit` bytes, written as `writing` does.

    The file is kept when the block ends, and not if that raises. `fields` are the others that there may be, with the
    most bytes of each. Raises `RefusedError` when the form is anything else, and `web.HTTPException` when it does not
    come in time.
    """
    _refuse_other_origin(request)
    if request.content_type != "multipart/form-data":
        message = f"Unsupported media type {request.content_type!r}; send Content-Type: multipart/form-data."
        raise RefusedError("invalid_request", message)
    refuse_encoded(request)
    if (request.content_length or 0) > limit + sum(fields.values()) + _HEADERS_BYTES:
        raise _too_large(name, limit)
    async with AsyncExitStack() as stack:
        reader = _FormReader(request, name, limit, fields)
        yield await reader.read(lambda: stack.enter_async_context(writing()))


class _FormReader:
    """Reads one form. aiohttp limits neither the number nor the size of parts that are read piece by piece."""

    def __init__(self, request: web.Request, name: str, limit: int, fields: Mapping[str, int]) -> None:
        self._request = request
        self._name = name
        self._limit = limit
        self._longest = fields
        self._fields: dict[str, str] = {}
        self._filename = ""
        self._file: Draft | None = None

    async def read(self, open_draft: Callable[[], Awaitable[Draft]]) -> Form:
        """Return the form. Raises as `reading_form` does."""
        reader = await self._in_time(self._request.multipart())
        while (part := await self._in_time(reader.next())) is not None:
            if not isinstance(part, BodyPartReader) or "Content-Transfer-Encoding" in part.headers:
                raise RefusedError("invalid_request", "The parts of the form have to come as they are.")
            if part.name != self._name:
                await self._keep(part)
                continue
            if self._file is not None:
                raise RefusedError("invalid_request", "The form has more than one file.", param=self._name)
            self._filename = (part.filename or "")[:_LONGEST_NAME]
            self._file = await open_draft()
            await self._copy(part, self._file)
        return Form(filename=self._filename, file=self._file, fields=self._fields)

    async def _copy(self, part: BodyPartReader, draft: Draft) -> None:
        while piece := await self._in_time(part.read_chunk(_PIECE_BYTES)):
            if draft.size + len(piece) > self._limit:
                raise _too_large(self._name, self._limit)
            await asyncio.to_thread(draft.write, piece)

    async def _keep(self, part: BodyPartReader) -> None:
        name, value = (part.name or "")[:_LONGEST_NAME], b""
        if name not in self._longest:
            raise RefusedError("unsupported_parameter", f"'{name}' is not supported by this server.", param=name)
        if name in self._fields:
            raise RefusedError("invalid_request", f"The form has '{name}' more than once.", param=name)
        while piece := await self._in_time(part.read_chunk(_PIECE_BYTES)):
            value += piece
            if len(value) > self._longest[name]:
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


def _refuse_other_origin(request: web.Request) -> None:
    """Raise `RefusedError` when another site's page sends the form: for that browsers ask nobody before."""
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise RefusedError("invalid_request", f"Pages of {origin[:200]!r} may not upload files here.")


def _too_large(name: str, limit: int) -> RefusedError:
    return RefusedError("too_large", f"The file is larger than {limit} bytes.", param=name)
