"""What snapshots keep, and that one which is not as it was written is known for it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from actors.rag.snapshots import Manifest, SnapshotError, Snapshots

STATE = {"name": np.array("ip"), "data": np.arange(50_000)}


def manifest(collection: str = "c", last: int = 7) -> Manifest:
    at = datetime(2026, 11, 22, tzinfo=UTC)
    return Manifest(collection=collection, generation="g", dimensions=3, count=5, last=last, at=at)


def file(folder: Path, pattern: str) -> Path:
    (found,) = folder.rglob(pattern)
    return found


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    Snapshots(tmp_path).write(manifest(), STATE)

    (snapshot,) = Snapshots(tmp_path).of("c")

    assert snapshot.manifest().last == 7
    assert snapshot.state()["data"].tolist() == STATE["data"].tolist()
    assert snapshot.state()["name"].item() == "ip"


def test_the_last_two_are_kept_newest_first(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    for last in range(12):
        snapshots.write(manifest(last=last), STATE)

    assert [snapshot.manifest().last for snapshot in snapshots.of("c")] == [11, 10]
    assert len(list(tmp_path.rglob("*.arrays"))) == 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def zero(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8192] + bytes(4096) + content[12288:])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, zero, empty, Path.unlink])
def test_a_file_that_was_damaged_is_not_read(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    Snapshots(tmp_path).write(manifest(), STATE)
    damage(file(tmp_path, "*.arrays"))

    (snapshot,) = Snapshots(tmp_path).of("c")

    with pytest.raises(SnapshotError):
        snapshot.state()


@pytest.mark.parametrize("damage", [truncate, empty])
def test_a_manifest_that_was_damaged_is_not_read(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    Snapshots(tmp_path).write(manifest(), STATE)
    damage(file(tmp_path, "*.json"))

    (snapshot,) = Snapshots(tmp_path).of("c")

    with pytest.raises(SnapshotError):
        snapshot.manifest()
    with pytest.raises(SnapshotError):
        snapshot.state()


def test_what_is_not_needed_is_deleted(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.write(manifest("c"), STATE)
    snapshots.write(manifest("C"), STATE)
    for folder in tmp_path.iterdir():
        (folder / "00000001.arrays").touch()
        (folder / "00000001.json.draft").touch()

    snapshots.keep(["c"])

    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["00000000.arrays", "00000000.json"]
    assert len(snapshots.of("c")) == 1
    assert snapshots.of("C") == []
