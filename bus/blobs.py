"""Blobs: payloads that are too large or too private for the log, as files named by their SHA-256.

For processes that share a machine. Files are readable by their owner only and are on disk, past power loss,
before their name is given out.
"""

import asyncio
import errno
import hashlib
import math
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from bus.errors import RefusedError

_NAME = re.compile(r"[0-9a-f]{64}")
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


def blob_name(content: bytes) -> str:
    """Return the name under which `content` is stored."""
    return hashlib.sha256(content).hexdigest()


class Draft:
    """A blob that is being written, piece by piece. Unless it is given a name, it has none before it is whole."""

    def __init__(self, file: BinaryIO, name: str | None = None) -> None:
        self._file = file
        self._given = name
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Append `piece`. It may block, as files do: what is large belongs on a thread."""
        self._file.write(piece)
        self._hash.update(piece)
        self.size += len(piece)

    @property
    def name(self) -> str:
        """The one given, or that of a blob with what was written so far."""
        return self._given or self._hash.hexdigest()


Write = Callable[[], AbstractAsyncContextManager[Draft]]


class Blobs:
    """A folder of blobs."""

    def __init__(self, folder: Path, *, is_passing: bool = False) -> None:
        """With `is_passing` they are somebody's own for a while.

        Then each has a name by chance, so that equal ones are not shared, is not made to outlast a power loss, and its
        content is not looked at when it is found.
        """
        self._folder = folder
        self._is_passing = is_passing

    async def put(self, content: bytes) -> str:
        """Store `content` and return its name. Storing the same content twice stores it once.

        Raises `RefusedError` ("storage_full").
        """
        with _telling_full():
            return await asyncio.to_thread(self._put, content)

    async def get(self, name: str) -> bytes | None:
        """Return the content of the blob, or None when it is gone or was damaged."""
        return await asyncio.to_thread(self._get, name)

    async def renew(self, name: str) -> bool:
        """Keep the blob as long as one that is stored now; return whether it is there."""
        return await asyncio.to_thread(self._renew, name)

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[Draft]:
        """Give a draft, which is stored under its `name` when the block ends. If it raises, nothing is left.

        Raises `RefusedError` ("storage_full").
        """
        async with self.writing_together() as write, write() as draft:
            yield draft

    @asynccontextmanager
    async def writing_together(self) -> AsyncGenerator[Write]:
        """Give what gives drafts, one after another, which are stored when this block ends, as with `writing`."""
        drafts: dict[Path, Draft] = {}

        @asynccontextmanager
        async def write() -> AsyncGenerator[Draft]:
            path = await asyncio.to_thread(self._draft_path)
            # Not on a thread: a cancel meanwhile would leave the file open.
            with _create(path) as file:
                drafts[path] = Draft(file, secrets.token_hex(32) if self._is_passing else None)
                yield drafts[path]
                await asyncio.to_thread(file.flush if self._is_passing else lambda: _sync(file))

        with _telling_full(), _leaving_nothing(drafts):
            yield write
            for path, draft in drafts.items():
                await _to_its_end(asyncio.to_thread(self._name, path, draft.name))

    async def find(self, name: str) -> Path | None:
        """Return the file of the blob, to be read only, or None when it is gone or was damaged."""
        return await asyncio.to_thread(self._find, name)

    async def open(self, name: str) -> BinaryIO | None:
        """Return the blob as a file to read from, or None when it is gone or was damaged."""
        path = await self.find(name)
        return None if path is None else path.open("rb")  # as in `writing`, not on a thread

    def remove(self, name: str) -> None:
        """Delete the blob, if it is there. Not on a thread: a cancel meanwhile would leave it."""
        self._path(name).unlink(missing_ok=True)

    async def forget(self, older_than: float) -> int:
        """Delete the blobs that were stored more than `older_than` seconds ago; return how many."""
        return await asyncio.to_thread(self._forget, time.time() - older_than)

    def _put(self, content: bytes) -> str:
        name = blob_name(content)
        draft = self._draft_path()
        with _leaving_nothing((draft,)):
            with _create(draft) as file:
                file.write(content)
                _sync(file)
            self._name(draft, name)
        return name

    def _get(self, name: str) -> bytes | None:
        try:
            content = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        return content if blob_name(content) == name else None

    def _renew(self, name: str) -> bool:
        try:
            os.utime(self._path(name))
        except FileNotFoundError:
            return False
        return True

    def _find(self, name: str) -> Path | None:
        path = self._path(name)
        if self._is_passing:
            return path if path.is_file() else None
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None
        return path if digest == name else None

    def _draft_path(self) -> Path:
        # In a folder like those of the blobs, so that what a crash leaves is forgotten with them.
        folder = self._folder / "drafts"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / secrets.token_hex(16)

    def _name(self, draft: Path, name: str) -> None:
        path = self._path(name)
        if not path.parent.exists():
            path.parent.mkdir(exist_ok=True, mode=0o700)
            _sync_folder(self._folder)
        # Replacing an existing one renews its age, which is when it will be forgotten.
        draft.replace(path)
        if not self._is_passing:
            _sync_folder(path.parent)

    def _forget(self, before: float) -> int:
        old = [path for path in self._folder.glob("*/*") if _stored_at(path) < before]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a blob")
        return self._folder / name[:2] / name


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for `work`, also when cancelled: a file that got its name later would be left by who removes it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _stored_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # A draft that has just got its name.
        return math.inf


@contextmanager
def _telling_full() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise RefusedError("storage_full", "The disk of the blobs is full: nothing can be stored.") from error


@contextmanager
def _leaving_nothing(drafts: Iterable[Path]) -> Generator[None]:
    try:
        yield
    except BaseException:
        for draft in drafts:
            draft.unlink(missing_ok=True)
        raise


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
