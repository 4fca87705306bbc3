"""The files actor: records which files are kept, finds and lists them, and deletes them.

Listens on  fusion.files.put, fusion.files.get, fusion.files.list, fusion.files.delete
Owns        the events of files
Never       reads what is in a file, or keeps any state of its own: the log is the state
"""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import structlog

from actors.pages import behind, page
from actors.supervisor import Child
from bus.client import Bus
from bus.errors import ConflictError, RefusedError
from bus.events import EventLog
from bus.ids import new_id
from bus.messages.files import DeleteFile, FileList, FileReply, GetFile, ListFiles, PutFile
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.subjects import DELETE_FILE, FILE_EVENTS, GET_FILE, LIST_FILES, PUT_FILE, fill
from eventlog.batch_events import FileDeleted, FileEvent, FileStored
from eventlog.file import fold

log = structlog.get_logger()


class Files:
    """Answers for all files. They are kept for `keep_days`, as everything in the log."""

    def __init__(self, events: EventLog, keep_days: int) -> None:
        self._events = events
        self._keep = timedelta(days=keep_days)

    async def put(self, request: PutFile, _: Caller) -> AsyncGenerator[FileReply]:
        """Record that the file is kept, and answer when that is stored."""
        stored = FileStored(
            id=new_id(),
            at=datetime.now(UTC),
            file_id=request.file_id,
            filename=request.filename,
            purpose=request.purpose,
            bytes=request.bytes,
            blob=request.blob,
            key=request.key,
        )
        try:
            await self._events.record_next(stored, after=0)
        except ConflictError as error:
            stored, _seq = await self._stored(request.file_id)
            if stored.blob != request.blob:
                message = f"There was another file '{request.file_id}' before."
                raise RefusedError("conflict", message, param="file_id") from error
        log.info("file.stored", file_id=request.file_id, purpose=request.purpose, bytes=request.bytes)
        yield self._reply(stored)

    async def get(self, request: GetFile, _: Caller) -> AsyncGenerator[FileReply]:
        """Answer from the log itself, so that a file is there as soon as it was stored."""
        stored, _seq = await self._stored(request.file_id)
        yield self._reply(stored)

    async def list_page(self, request: ListFiles, _: Caller) -> AsyncGenerator[FileList]:
        """Answer with a page of the files in the order in which they were stored, or against it.

        Whoever deletes what a page has can go on behind it.
        """
        files = await self._all()
        if request.order == "desc":
            files.reverse()
        begin = behind([file_id for file_id, _ in files], request.after)
        wanted = [file for _, file in files[begin:] if file is not None and request.purpose in (None, file.purpose)]
        found, has_more = page(wanted, lambda file: file.file_id, after=None, limit=request.limit)
        yield FileList(files=found, has_more=has_more)

    async def delete(self, request: DeleteFile, _: Caller) -> AsyncGenerator[FileReply]:
        """Record that the file is deleted, and answer with what it was."""
        stored, seq = await self._stored(request.file_id)
        deleted = FileDeleted(id=new_id(), at=datetime.now(UTC), file_id=request.file_id)
        try:
            await self._events.record_next(deleted, after=seq)
        except ConflictError as error:
            # Only deleting comes after storing.
            raise _unknown(request.file_id) from error
        log.info("file.deleted", file_id=request.file_id)
        yield self._reply(stored)

    async def _stored(self, file_id: str) -> tuple[FileStored, int]:
        recorded = await self._events.read(fill(FILE_EVENTS, file_id))
        stored = fold([item.event for item in recorded])
        if stored is None or self._expiry(stored) <= datetime.now(UTC):
            raise _unknown(file_id)
        return stored, recorded[-1].seq

    async def _all(self) -> list[tuple[str, FileReply | None]]:
        """Return the ids of all files, the oldest first, and what is told of those that are still there."""
        by_file: dict[str, list[FileEvent]] = {}
        for item in await self._events.read(FILE_EVENTS):
            if isinstance(item.event, FileEvent):
                by_file.setdefault(item.event.file_id, []).append(item.event)
        now = datetime.now(UTC)
        found = {file_id: fold(events) for file_id, events in by_file.items()}
        return [
            (file_id, self._reply(stored) if stored is not None and self._expiry(stored) > now else None)
            for file_id, stored in found.items()
        ]

    def _expiry(self, stored: FileStored) -> datetime:
        return stored.at + self._keep

    def _reply(self, stored: FileStored) -> FileReply:
        return FileReply(
            file_id=stored.file_id,
            filename=stored.filename,
            purpose=stored.purpose,
            bytes=stored.bytes,
            blob=stored.blob,
            stored_at=stored.at,
            expires_at=self._expiry(stored),
        )


def _unknown(file_id: str) -> RefusedError:
    return RefusedError("file_not_found", f"There is no file '{file_id[:80]}'.", param="file_id")


def child(bus: Bus, keep_days: int, instance: str) -> Child:
    """Return what the supervisor needs to run this actor."""

    async def run() -> None:
        files = Files(EventLog(bus), keep_days)
        info = ServiceInfo(
            name="fusion-files", instance=instance, description="Records files, finds, lists and deletes them"
        )
        endpoints = (
            Endpoint(PUT_FILE(), files.put),
            Endpoint(GET_FILE(), files.get),
            Endpoint(LIST_FILES(), files.list_page),
            Endpoint(DELETE_FILE(), files.delete),
        )
        async with serving(bus, info, *endpoints):
            await asyncio.Event().wait()

    return Child("files", run)
