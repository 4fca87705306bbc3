"""Where there is no room: the disk of the log, that of the blobs, and the log itself."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bus.blobs import Blobs
from bus.errors import BusError, RefusedError
from bus.events import EventLog
from bus.streams import ensure_streams
from tests.support import make
from tests.support.jobs import Chat, living, world
from tests.support.nats import server_running, until_it

_MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill_up(folder: Path) -> Path:
    """Leave no byte on the disk; return the file to delete for room."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (_MIB, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


async def test_full_disk_refuses_new_jobs_and_loses_none_that_was_accepted(disk: Path, tmp_path: Path) -> None:
    async with server_running(disk) as server:
        async with world(server, tmp_path) as fusion:
            accepted = [(await fusion.submit(job_id=f"job-{number}")).job_id for number in range(5)]
            filler = fill_up(disk)
            with pytest.raises(RefusedError) as refused:
                while True:  # What the server has reserved is written first.
                    accepted.append((await fusion.submit(job_id=f"job-{len(accepted)}")).job_id)
            await server.kill()
            filler.unlink()
            await server.start()
            await until_it(lambda: _has(fusion.log, accepted))
            await fusion.submit(job_id="job-new")
            kept = await _has(fusion.log, [*accepted, "job-new"])

    assert refused.value.code == "storage_full"
    assert kept


async def _has(log: EventLog, accepted: list[str]) -> bool:
    try:
        return all([await log.read_job(job_id) for job_id in accepted])
    except BusError:
        return False


async def test_full_disk_of_the_blobs_is_told_and_leaves_nothing(disk: Path) -> None:
    blobs = Blobs(disk / "blobs")
    kept = await blobs.put(b"kept")
    filler = fill_up(disk)

    with pytest.raises(RefusedError) as refused:
        await blobs.put(os.urandom(2 * _MIB))
    files = [path.name for path in disk.rglob("*") if path.is_file()]
    filler.unlink()
    again = await blobs.put(os.urandom(2 * _MIB))

    assert refused.value.code == "storage_full"
    assert sorted(files) == sorted((filler.name, kept))
    assert await blobs.get(again) is not None
    assert await blobs.get(kept) == b"kept"


async def test_nearly_full_log_refuses_new_jobs_so_that_those_accepted_can_end(tmp_path: Path) -> None:
    accepted: list[str] = []
    async with server_running(tmp_path) as server, world(server, tmp_path, Chat()) as fusion:
        await ensure_streams(fusion.bus.nc, keep_days=7, max_bytes=2 * _MIB)
        accepted.append((await fusion.submit(job_id="job-0")).job_id)
        for _ in range(95):
            await fusion.log.record(make.job_failed(job_id="job-other", error="x" * 20_000))
        with pytest.raises(RefusedError) as refused:
            while True:  # How full it is, is looked at from time to time.
                job_id = f"job-{len(accepted)}"
                accepted.append((await fusion.submit(job_id=job_id)).job_id)
                await fusion.queue_is(len(accepted))
        async with living(fusion.worker()):
            ends = [(await fusion.ended(job_id))[-1] for job_id in accepted]

    assert refused.value.code == "storage_full"
    assert ends == ["JobCompleted"] * len(accepted)
