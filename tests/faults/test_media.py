"""Children that decode: they hang, are killed, run into their limits, and lose their parent."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
from msgspec import structs

from actors.limited_child import Reply
from actors.media import Media, MediaLimits
from actors.media_task import Task
from bus.blobs import Blobs
from bus.errors import RefusedError
from bus.messages.embeddings import ImagePart
from tests.support.nats import until
from tests.support.pictures import pixels, png, video
from tests.support.processes import REPOSITORY, children_that_run, gone

PARENT = """
import asyncio, sys
from pathlib import Path
from actors.media import Media, MediaLimits
from bus.blobs import Blobs
from bus.messages.embeddings import ImagePart

async def main():
    media = Media((Blobs(Path(sys.argv[1])),), MediaLimits(most_bytes=10**6, most_pixels=10**6, seconds=50.0))
    async with media.decoded({"input[0]": ImagePart(blob=sys.argv[2])}, 1):
        print("decoded", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def decoding(folder: Path) -> AsyncGenerator[Media]:
    media = Media((Blobs(folder),), MediaLimits(most_bytes=10**6, most_pixels=10**6, seconds=50.0))
    try:
        yield media
    finally:
        await media.close()


async def decode(media: Media, blob: str) -> tuple[int, ...]:
    async with asyncio.timeout(60), media.decoded({"input[0]": ImagePart(blob=blob)}, 1) as pictures:
        return pictures[blob][0].shape


def children(parent: int | None = None) -> list[psutil.Process]:
    return children_that_run("actors.media_child", parent)


async def test_child_that_hangs_is_killed_and_the_next_file_is_read(tmp_path: Path) -> None:
    blob = await Blobs(tmp_path).put(png(pixels()))
    async with decoding(tmp_path) as media:
        await decode(media, blob)
        (hanging,) = children()
        await decode(media, blob)
        assert children() == [hanging]
        hanging.suspend()
        patient = media._limits  # To start a process takes seconds as well.
        media._limits = structs.replace(patient, seconds=1.0)

        with pytest.raises(RefusedError, match="longer than 1 s") as refusal:
            await decode(media, blob)

        media._limits = patient
        assert refusal.value.failure.param == "input[0]"
        assert await gone([hanging], 60) == []
        assert await decode(media, blob) == (6, 8, 3)
    assert children() == []


async def test_child_that_is_killed_costs_no_other_request(tmp_path: Path) -> None:
    blob = await Blobs(tmp_path).put(png(pixels()))
    async with decoding(tmp_path) as media:
        await decode(media, blob)
        (first,) = children()
        first.suspend()
        (process,) = media._processes._idle
        asking = asyncio.create_task(decode(media, blob))
        await until(lambda: process._is_working)
        first.kill()
        with pytest.raises(RefusedError, match="crashed"):
            await asking

        assert await decode(media, blob) == (6, 8, 3)
        (second,) = children()
        second.kill()
        await until(lambda: not media._processes._idle[0].is_good)
        assert await decode(media, blob) == (6, 8, 3)


async def test_request_that_is_given_up_ends_the_work_on_it(tmp_path: Path) -> None:
    blob = await Blobs(tmp_path).put(png(pixels()))
    async with decoding(tmp_path) as media:
        await decode(media, blob)
        (child,) = children()
        child.suspend()
        (process,) = media._processes._idle
        asking = asyncio.create_task(decode(media, blob))
        await until(lambda: process._is_working)

        asking.cancel()

        assert await gone([child], 60) == []
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await decode(media, blob) == (6, 8, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS limits no addresses")
async def test_child_has_a_limit_of_memory_and_of_processor_time(tmp_path: Path) -> None:
    blob = await Blobs(tmp_path).put(png(pixels()))
    async with decoding(tmp_path) as media:
        await decode(media, blob)
        (child,) = children()
        addresses, seconds = child.rlimit(psutil.RLIMIT_AS), child.rlimit(psutil.RLIMIT_CPU)

    assert addresses == (2 << 30, 2 << 30)
    assert 50 <= seconds[0] <= 55


async def test_what_this_server_lacks_is_no_fault_of_the_file(tmp_path: Path) -> None:
    lack = "libGL.so.1: cannot open shared object file"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({lack!r})")
    film = tmp_path / "film"
    film.write_bytes(video([0]))
    task = Task(medium="video", path=str(film), frames=1, most_bytes=10**6, most_pixels=10**6, seconds=50.0)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "actors.media_child"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=REPOSITORY,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(msgspec.json.encode(task) + b"\n")

    async with asyncio.timeout(60):
        reply = msgspec.json.decode(await child.stdout.readline(), type=Reply)

    assert f"This server cannot read videos: {lack}" in reply.error
    child.kill()
    await child.wait()


async def test_child_ends_with_its_parent_however_that_dies(tmp_path: Path) -> None:
    blob = await Blobs(tmp_path).put(png(pixels()))
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(tmp_path), blob), stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    assert parent.stdout is not None
    async with asyncio.timeout(60):
        assert await parent.stdout.readline() == b"decoded\n"
    found = children(parent.pid)

    parent.kill()
    await parent.wait()

    assert len(found) == 1
    assert await gone(found, 60) == []
