"""/v1/files, as OpenAI's clients speak it: what batches read and write."""

import re
from typing import Annotated, Literal
from urllib.parse import quote

from aiohttp import web
from msgspec import Meta, Struct

from bus.errors import RefusedError
from bus.ids import new_id
from bus.messages.files import DeleteFile, FileReply, GetFile, ListFiles, Order, PutFile
from bus.subjects import DELETE_FILE, GET_FILE, LIST_FILES, PUT_FILE
from http_edge.context import BLOBS, BUS, CONFIG
from http_edge.keys import fingerprint
from http_edge.upload import File as Uploaded
from http_edge.upload import Form, Room, read_form
from http_edge.wire import json_response, read_query

# What a form has beside the file, and the most bytes of each.
_FIELDS = {"purpose": 1024}

_FILE_ID = re.compile(r"file-[0-9A-Za-z_-]{1,64}")


class Page(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which part of the files a client wants."""

    purpose: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    after: str | None = None
    order: Order = "desc"


class File(Struct, frozen=True, kw_only=True):
    """OpenAI's file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FilePage(Struct, frozen=True, kw_only=True):
    """A part of the files."""

    object: Literal["list"] = "list"
    data: tuple[File, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(Struct, frozen=True, kw_only=True):
    """A file that nobody sees any more."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


async def upload(request: web.Request) -> web.StreamResponse:
    """Keep a file, which comes as a form."""
    room = Room(names=("file",), file_bytes=request.app[CONFIG].max_file_bytes, fields=_FIELDS)
    async with request.app[BLOBS].writing_together() as write:
        file = _checked(await read_form(request, room, write))
    message = PutFile(
        file_id=f"file-{new_id()}",
        filename=file.filename,
        purpose="batch",
        bytes=file.draft.size,
        blob=file.draft.name,
        key=fingerprint(request),
    )
    return json_response(_file(await request.app[BUS].ask(PUT_FILE(), message)))


def _checked(form: Form) -> Uploaded:
    if not form.files:
        raise RefusedError("invalid_request", "The form has no file.", param="file")
    purpose = form.fields.get("purpose")
    if purpose != "batch":
        said = "nothing" if purpose is None else f"'{purpose[:80]}'"
        message = f"Files are kept for batches only: 'purpose' has to be 'batch', not {said}."
        raise RefusedError("invalid_request", message, param="purpose")
    return form.files[0]


async def list_page(request: web.Request) -> web.StreamResponse:
    """List files, newest first unless asked otherwise."""
    page = read_query(request, Page)
    message = ListFiles(purpose=page.purpose, limit=page.limit, after=page.after, order=page.order)
    reply = await request.app[BUS].ask(LIST_FILES(), message)
    data = tuple(map(_file, reply.files))
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return json_response(FilePage(data=data, first_id=first, last_id=last, has_more=reply.has_more))


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Tell about a file."""
    return json_response(_file(await _find(request)))


async def content(request: web.Request) -> web.StreamResponse:
    """Give what is in a file."""
    file = await _find(request)
    path = await request.app[BLOBS].find(file.blob)
    if path is None:
        raise RefusedError("file_not_found", f"The content of the file '{file.file_id}' is gone.", param="file_id")
    named = f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}"
    headers = {"Content-Type": "application/octet-stream", "Content-Disposition": named}
    return web.FileResponse(path, headers=headers)


async def delete(request: web.Request) -> web.StreamResponse:
    """Let nobody see a file any more."""
    file = await request.app[BUS].ask(DELETE_FILE(), DeleteFile(file_id=_file_id(request)))
    return json_response(Deleted(id=file.file_id))


async def _find(request: web.Request) -> FileReply:
    return await request.app[BUS].ask(GET_FILE(), GetFile(file_id=_file_id(request)))


def _file_id(request: web.Request) -> str:
    file_id = request.match_info["file_id"]
    if not _FILE_ID.fullmatch(file_id):
        raise RefusedError("file_not_found", f"There is no file {file_id[:80]!r}.", param="file_id")
    return file_id


def _file(file: FileReply) -> File:
    return File(
        id=file.file_id,
        bytes=file.bytes,
        created_at=int(file.stored_at.timestamp()),
        expires_at=int(file.expires_at.timestamp()),
        filename=file.filename,
        purpose=file.purpose,
    )


ROUTES = [
    web.post("/v1/files", upload),
    web.get("/v1/files", list_page),
    web.get("/v1/files/{file_id}", retrieve),
    web.get("/v1/files/{file_id}/content", content),
    web.delete("/v1/files/{file_id}", delete),
]
