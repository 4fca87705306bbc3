"""A file that comes as a form: written to a blob as it comes, however large."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import BadHttpMessage
from msgspec import Struct

from bus.blobs import Draft
from bus.errors import RefusedError
from http_edge.context import BLOBS, CONFIG
from http_edge.wire import refuse_encoded

T = TypeVar("T")

_PIECE_BYTES = 256 * 1024
# Of the fields beside the file, which are few and short.
_MOST_FIELDS = 8
_LONGEST_FIELD = 1024
_LONGEST_NAME = 255


class Form(Struct, frozen=True, kw_only=True):
    """What was uploaded."""

    filename: str
    blob: str
    size: int


async def read_form(request: web.Request) -> Form:
    """Return the file of the form in the body, once it is stored, and its `purpose` was found right.

    Raises `RefusedError` when the form is anything else, and `web.HTTPException` when it does not come in time.
    """
    _refuse_other_origin(request)
    if request.content_type != "multipart/form-data":
        message = f"Unsupported media type {request.content_type!r}; send Content-Type: multipart/form-data."
        raise RefusedError("invalid_request", message)
    refuse_encoded(request)
    limit = request.app[CONFIG].max_file_bytes
    if (request.content_length or 0) > limit + _MOST_FIELDS * _LONGEST_FIELD:
        raise _too_large(limit)
    form = _FormReader(request, limit)
    async with request.app[BLOBS].writing() as draft:
        await form.read(draft)
    return Form(filename=form.filename or "", blob=draft.name, size=draft.size)


class _FormReader:
    """Reads one form. aiohttp limits neither the number nor the size of parts that are read piece by piece."""

    def __init__(self, request: web.Request, limit: int) -> None:
        self.filename: str | None = None
        self._request = request
        self._limit = limit
        self._fields: dict[str, str] = {}

    async def read(self, draft: Draft) -> None:
        """Write the file to `draft`. Raises as `read_form` does."""
        reader = await self._in_time(self._request.multipart())
        while (part := await self._in_time(reader.next())) is not None:
            if not isinstance(part, BodyPartReader) or "Content-Transfer-Encoding" in part.headers:
                raise RefusedError("invalid_request", "The parts of the form have to come as they are.")
            if part.name == "file":
                await self._copy(part, draft)
            else:
                await self._keep(part)
        if self.filename is None:
            raise RefusedError("invalid_request", "The form has no file.", param="file")
        self._check_fields()

    async def _copy(self, part: BodyPartReader, draft: Draft) -> None:
        if self.filename is not None:
            raise RefusedError("invalid_request", "The form has more than one file.", param="file")
        self.filename = (part.filename or "")[:_LONGEST_NAME]
        while piece := await self._in_time(part.read_chunk(_PIECE_BYTES)):
            if draft.size + len(piece) > self._limit:
                raise _too_large(self._limit)
            await asyncio.to_thread(draft.write, piece)

    async def _keep(self, part: BodyPartReader) -> None:
        name, value = (part.name or "")[:_LONGEST_FIELD], b""
        if len(self._fields) == _MOST_FIELDS:
            raise RefusedError("invalid_request", "The form has too many fields.", param=name)
        while piece := await self._in_time(part.read_chunk(_LONGEST_FIELD)):
            value += piece
            if len(value) > _LONGEST_FIELD:
                raise RefusedError("invalid_request", f"'{name}' is too long.", param=name)
        self._fields[name] = value.decode(errors="replace")

    def _check_fields(self) -> None:
        unknown = next((name for name in self._fields if name != "purpose"), None)
        if unknown is not None:
            raise RefusedError("unsupported_parameter", f"'{unknown}' is not supported by this server.", param=unknown)
        purpose = self._fields.get("purpose")
        if purpose != "batch":
            said = "nothing" if purpose is None else f"'{purpose[:80]}'"
            message = f"Files are kept for batches only: 'purpose' has to be 'batch', not {said}."
            raise RefusedError("invalid_request", message, param="purpose")

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


def _too_large(limit: int) -> RefusedError:
    return RefusedError("too_large", f"The file is larger than {limit} bytes.", param="file")
