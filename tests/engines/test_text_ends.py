"""How texts end before their time, and engines."""

import asyncio
import gc
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import mlx.core as mx
import pytest

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from bus.errors import LostError, RefusedError
from tests.support.text import Reference, drain, greedy, text

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_closing_a_generation_frees_its_row_within_a_step(text_engine: TextEngine) -> None:
    batch = text_engine._loaded().batch
    async with aclosing(text_engine.generate(text_engine.prepare(greedy("Work", 200)))) as chunks:
        await anext(chunks)
        assert len(batch._rows) == 1

    await text_engine.ping()

    assert batch._rows == {}
    assert batch._generator is not None
    assert batch._generator.prompt_cache_nbytes == 0


async def test_place_of_a_cancelled_row_is_used_again(own_engine: TextEngine, reference: Reference) -> None:
    first, second = (own_engine.generate(own_engine.prepare(greedy("Work", 200))) for _ in range(2))
    await anext(first)
    await anext(second)
    waiting = asyncio.create_task(text(own_engine, greedy("You may")))
    await own_engine.ping()

    await first.aclose()

    assert await waiting == await reference.greedy("You may", 24)
    await second.aclose()


async def test_cancelled_task_frees_its_row(text_engine: TextEngine) -> None:
    batch = text_engine._loaded().batch
    task = asyncio.create_task(text(text_engine, greedy("Work", 200)))
    while not batch._rows:
        await text_engine.ping()

    task.cancel()
    await asyncio.wait([task])
    await text_engine.ping()

    assert task.cancelled()
    assert batch._rows == {}


async def test_rows_learn_that_the_thread_has_crashed(own_engine: TextEngine) -> None:
    running = own_engine.generate(own_engine.prepare(greedy("Work", 200)))
    await anext(running)

    own_engine._thread.submit(lambda: 1 / 0)

    for use in (drain(running), text(own_engine, greedy("Work")), own_engine.ping()):
        with pytest.raises(LostError) as lost:
            await use
        assert lost.value.code == "crashed"


async def test_unloading_frees_the_memory_and_refuses_unfinished_rows(tiny_llama: Path) -> None:
    engine = TextEngine(tiny_llama, TextLimits())
    gc.collect()  # What is left of other tests.
    before = mx.get_active_memory()
    await engine.load()
    chunks = engine.generate(engine.prepare(greedy("Work", 200)))
    await anext(chunks)
    assert mx.get_active_memory() - before > 400_000

    await engine.unload()

    assert mx.get_active_memory() - before < 1000
    with pytest.raises(RefusedError) as refused:
        await drain(chunks)
    assert refused.value.code == "restarting"
    with pytest.raises(LostError):
        await engine.ping()


async def test_process_ends_cleanly(tiny_llama: Path) -> None:
    script = """
import asyncio, pathlib, sys
from actors.engines.blas import prepare_blas
prepare_blas()
from actors.engines.text import TextEngine, _Speech
from actors.engines.text_model import TextLimits
from bus.messages.chat import ChatRequest

async def main():
    engine = TextEngine(pathlib.Path(sys.argv[1]), TextLimits())
    await engine.load()
    work = engine.prepare(ChatRequest(prompt="Work", max_tokens=3))
    print(len([chunk async for chunk in engine.generate(work)]))
    await engine.unload()

asyncio.run(main())
"""
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(tiny_llama)], capture_output=True, check=False
    )

    assert process.returncode == 0, process.stderr.decode()
