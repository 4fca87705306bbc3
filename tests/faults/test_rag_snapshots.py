"""A process that is killed while it saves the state of an index."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.rag.snapshots import Snapshots
from tests.support.nats import until
from tests.support.processes import REPOSITORY

# Says in each snapshot its number, in an array and in the manifest.
_SAVING = """
import sys
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
import numpy as np
from actors.rag.snapshots import Manifest, Snapshots

snapshots = Snapshots(Path(sys.argv[1]))
for number in count(len(snapshots.of("c")) and snapshots.of("c")[0].manifest().last + 1):
    facts = Manifest(collection="c", generation="g", dimensions=1, count=1, last=number, at=datetime.now(UTC))
    snapshots.write(facts, {"number": np.full(1_000_000, number)})
"""


def being_written(folder: Path) -> bool:
    return bool(list(folder.rglob("*.arrays.draft")))


def without_manifest(folder: Path) -> bool:
    return len(list(folder.rglob("*.arrays"))) > len(list(folder.rglob("*.json")))


def several(folder: Path) -> bool:
    return len(list(folder.rglob("*.json"))) > 2


def latest(folder: Path) -> int:
    return max((int(path.stem) for path in folder.rglob("*.json")), default=-1)


@pytest.mark.parametrize("moment", [being_written, without_manifest, several])
async def test_a_kill_leaves_whole_snapshots_only(tmp_path: Path, moment: Callable[[Path], bool]) -> None:
    snapshots = Snapshots(tmp_path)
    for _ in range(3):
        before = latest(tmp_path)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", _SAVING, tmp_path, cwd=REPOSITORY)
        await until(lambda before=before: latest(tmp_path) > before + 1)
        await until(lambda: moment(tmp_path))
        process.kill()
        await process.wait()
        snapshots.keep(["c"])

        kept = snapshots.of("c")
        numbers = [snapshot.manifest().last for snapshot in kept]
        assert [snapshot.state()["number"][-1] for snapshot in kept] == numbers
        assert numbers[:2] == [latest(tmp_path), latest(tmp_path) - 1]
        assert latest(tmp_path) > before
