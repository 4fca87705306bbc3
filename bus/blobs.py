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
from pathlib import Path

from bus.errors import RefusedError

_NAME = re.compile(r"[0-9a-f]{64}")
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


class Blobs:
    """A folder of blobs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, content: bytes) -> str:
        """Store `content` and return its name. Storing the same content twice stores it once.

        Raises `RefusedError` ("storage_full").
        """
        try:
            return await asyncio.to_thread(self._put, content)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise RefusedError("storage_full", "The disk of the blobs is full: nothing can be stored.") from error

    async def get(self, name: str) -> bytes | None:
        """Return the content of the blob, or None when it is gone or was damaged."""
        return await asyncio.to_thread(self._get, name)

    async def forget(self, older_than: float) -> int:
        """Delete the blobs that were stored more than `older_than` seconds ago; return how many."""
        return await asyncio.to_thread(self._forget, time.time() - older_than)

    def _put(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        path = self._path(name)
        draft = path.with_name(f"{name}.{secrets.token_hex(4)}")
        self._make_folder(path.parent)
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # Replacing an existing one renews its age, which is when it will be forgotten.
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
        return name

    def _make_folder(self, folder: Path) -> None:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _sync_folder(self._folder)

    def _get(self, name: str) -> bytes | None:
        try:
            content = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).hexdigest() == name else None

    def _forget(self, before: float) -> int:
        old = [path for path in self._folder.glob("*/*") if _stored_at(path) < before]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a blob")
        return self._folder / name[:2] / name


def _stored_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # A draft that has just got its name.
        return math.inf


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
