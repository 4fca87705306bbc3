"""What an index was, in files, to be had again after a restart: checked by a hash, replaced in one step, the last two.

A snapshot is two files: `<number>.arrays`, the state in NumPy's format, and then `<number>.json`, its manifest.
None is needed: an index can be built again from the store. Everything here blocks.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from msgspec import Struct

from actors.rag.hnsw import State

_KEPT = 2
# hnswlib tells no version; another layout of its state needs another number.
FORMAT = 1


class SnapshotError(Exception):
    """A snapshot that cannot be used, and why."""


class Manifest(Struct, frozen=True, kw_only=True):
    """What a snapshot is of: so many vectors, of which `last` is the highest label.

    Labels mean the same within one `generation` of the store. `hash` is the SHA-256 of the file, in which `arrays`
    follow each other.
    """

    collection: str
    generation: str
    dimensions: int
    count: int
    last: int
    at: datetime
    arrays: tuple[str, ...] = ()
    hash: str = ""
    format: int = FORMAT

    def sealed(self, arrays: Iterable[str], file_hash: str) -> "Manifest":
        """Return it for a file that has been written."""
        return msgspec.structs.replace(self, arrays=tuple(arrays), hash=file_hash)


class Snapshot:
    """One that is on disk, whole or not."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def manifest(self) -> Manifest:
        """Return what it says of itself. Raises `SnapshotError`."""
        try:
            seal, _, body = self._path.read_bytes().partition(b"\n")
            if seal != _seal(body):
                raise SnapshotError("its manifest is damaged")
            return _decode(body)
        except (OSError, msgspec.DecodeError) as error:
            raise SnapshotError(f"its manifest cannot be read: {error}") from error

    def state(self) -> State:
        """Return what was saved. Raises `SnapshotError`, also if a bit of it has changed."""
        manifest = self.manifest()
        try:
            with _arrays(self._path).open("rb") as file:
                if _hash(file) != manifest.hash:
                    raise SnapshotError("it is damaged")
                return {name: np.load(file) for name in manifest.arrays}
        except OSError as error:
            raise SnapshotError(f"it cannot be read: {error}") from error

    def delete(self) -> None:
        """Have nobody try it again."""
        self._path.unlink(missing_ok=True)
        _arrays(self._path).unlink(missing_ok=True)


class Snapshots:
    """The snapshots of all collections, in a folder for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, collection: str) -> list[Snapshot]:
        """Return those of this collection, newest first."""
        return [Snapshot(path) for path in reversed(_manifests(self._of(collection)))]

    def write(self, manifest: Manifest, state: State) -> None:
        """Save one, and delete all of this collection but the last two. Raises OSError; then nothing has changed."""
        folder = self._of(manifest.collection)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{_next_number(folder):08}.json"
        _write(_arrays(path), lambda file: _save(file, state))
        with _arrays(path).open("rb") as file:
            manifest = manifest.sealed(state, _hash(file))
        body = msgspec.json.encode(manifest)
        _write(path, lambda file: file.write(_seal(body) + b"\n" + body))
        for old in self.of(manifest.collection)[_KEPT:]:
            old.delete()

    def keep(self, collections: Collection[str]) -> None:
        """Delete what is of other collections, and what was not finished."""
        folders = {self._of(collection) for collection in collections}
        for folder in self._folder.glob("*/"):
            if folder in folders:
                _tidy(folder)
            else:
                shutil.rmtree(folder)

    def forget(self, collection: str) -> None:
        """Delete those of this collection."""
        shutil.rmtree(self._of(collection), ignore_errors=True)

    def _of(self, collection: str) -> Path:
        # Some file systems take names for the same that differ in case.
        return self._folder / hashlib.blake2b(collection.encode(), digest_size=16).hexdigest()


_decode = msgspec.json.Decoder(Manifest).decode


def _arrays(manifest: Path) -> Path:
    return manifest.with_suffix(".arrays")


def _manifests(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if path.stem.isdecimal())


def _next_number(folder: Path) -> int:
    manifests = _manifests(folder)
    return int(manifests[-1].stem) + 1 if manifests else 0


def _tidy(folder: Path) -> None:
    manifests = _manifests(folder)
    for path in {*folder.glob("*.arrays"), *folder.glob("*.draft")} - set(map(_arrays, manifests)):
        path.unlink()


def _hash(file: BufferedReader) -> str:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return digest


def _seal(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _save(file: BinaryIO, state: State) -> None:
    for array in state.values():
        np.save(file, array, allow_pickle=False)


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have the file there whole or not at all, also if the power fails."""
    draft = path.with_suffix(f"{path.suffix}.draft")
    try:
        with draft.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
