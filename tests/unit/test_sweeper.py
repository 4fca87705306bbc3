import asyncio
from contextlib import suppress
from pathlib import Path

from actors.sweeper import sweep
from bus.blobs import Blobs
from tests.support.nats import until


async def test_blob_is_deleted_soon_after_it_is_too_old(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    async with asyncio.timeout(20):
        sweeping = asyncio.create_task(sweep(blobs, 0.2))
        name = await blobs.put(b"left by a crash")

        await until(lambda: not list(tmp_path.glob(f"*/{name}")))

    sweeping.cancel()
    with suppress(asyncio.CancelledError):
        await sweeping
    assert await blobs.get(name) is None
