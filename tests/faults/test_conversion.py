"""Processes that are killed while they convert a model."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from actors.conversion import made_once, quantised
from bus.messages.catalogue import ModelEntry
from tests.support import tiny_models
from tests.support.nats import until
from tests.support.processes import REPOSITORY, gone

# Begins to write, and never ends.
_HALF = """
import sys, time
from pathlib import Path
from actors.conversion import made_once

def write(draft):
    draft.mkdir()
    (draft / "half").touch()
    time.sleep(600)

made_once(Path(sys.argv[1]), Path(sys.argv[2]), write)
"""
_QUANTISED = """
import sys
from pathlib import Path
from actors.conversion import quantised
from bus.messages.catalogue import ModelEntry

entry = ModelEntry(id="m", kind="chat", quantisation="4bit")
quantised(entry, Path(sys.argv[1]), Path(sys.argv[2]))
"""


async def test_what_a_killed_process_has_left_is_made_anew(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "x"
    async with _running(_HALF, tmp_path, target) as process:
        await until((target.parent / "x.part" / "half").exists)
        process.kill()

    assert not target.exists()
    made_once(tmp_path, target, Path.mkdir)

    assert [path.name for path in target.parent.glob("x*")] == ["x"]
    assert [path.name for path in target.iterdir()] == ["fusion.json"]


async def test_a_conversion_ends_with_the_process_that_wants_it(tmp_path: Path) -> None:
    model, cache = tiny_models.llama(tmp_path / "model"), tmp_path / "cache"
    async with _running(_QUANTISED, model, cache) as process:
        await until(psutil.Process(process.pid).children)
        [conversion] = psutil.Process(process.pid).children()  # It has begun, and imports mlx-lm for two seconds.
        process.kill()

    assert await gone([conversion], 60) == []
    entry = ModelEntry(id="m", kind="chat", quantisation="4bit")
    made = await asyncio.to_thread(quantised, entry, model, cache)
    other = await asyncio.to_thread(quantised, entry, model, tmp_path / "other")
    assert (made / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@asynccontextmanager
async def _running(code: str, *folders: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run `code` until the block has killed it."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *map(str, folders), cwd=REPOSITORY)
    yield process
    await process.wait()
