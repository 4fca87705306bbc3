"""Blobs: payloads that are too large or too private for the log, as files named by their SHA-256.

For processes that share a machine. Files are readable by their owner only and are on disk, past power loss,
before their name is given out.
"""

import asyncio
import hashlib
import math
import os
import re
import secrets
import time
from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{64}")


def blob_name(content: bytes) -> str:
    """Return the name under which `content` is stored."""
    return hashlib.sha256(content).hexdigest()


class Blobs:
    """A folder of blobs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, content: bytes) -> str:
        """Store `content` and return its name. Storing the same content twice stores it once."""
        return await asyncio.to_thread(self._put, content)

    async def get(self, name: str) -> bytes | None:
        """Return the content of the blob, or None when it is gone or was damaged."""
        return await asyncio.to_thread(self._get, name)

    async def renew(self, name: str) -> bool:
        """Keep the blob as long as one that is stored now; return whether it is there."""
        return await asyncio.to_thread(self._renew, name)

    async def forget(self, older_than: float) -> int:
        """Delete the blobs that were stored more than `older_than` seconds ago; return how many."""
        return await asyncio.to_thread(self._forget, time.time() - older_than)

    def _put(self, content: bytes) -> str:
        name = blob_name(content)
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f"{name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Replacing an existing one renews its age, which is when it will be forgotten.
        draft.replace(path)
        _sync_folder(path.parent)
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
