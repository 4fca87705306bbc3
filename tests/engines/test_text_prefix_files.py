import os
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mlx_lm.models.cache import KVCache, RotatingKVCache

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from actors.engines.text_prefix import PrefixCache
from actors.engines.text_prefix_files import PrefixFiles
from bus.messages.chat import ChatRequest
from tests.support.caches import filled

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG, OTHER = tuple(range(2, 130)), tuple(range(200, 260))


@asynccontextmanager
async def loaded(model: Path, folder: Path) -> AsyncGenerator[TextEngine]:
    engine = TextEngine(model, TextLimits(prefix_folder=folder, warmup=False))
    await engine.load()
    yield engine
    await engine.unload()


async def answer(engine: TextEngine, prompt: tuple[int, ...]) -> tuple[str, int]:
    """Return the text, and how much of the prompt was known."""
    request = ChatRequest(prompt=prompt, max_tokens=24, temperature=0)
    chunks = [chunk async for chunk in engine.generate(engine.prepare(request))]
    return "".join(chunk.text for chunk in chunks), chunks[-1].usage.cached_tokens


async def test_what_was_read_is_known_after_the_model_was_unloaded(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    async with loaded(tiny_llama, folder) as engine:
        text, cached = await answer(engine, LONG)
    written = {path: path.stat().st_ino for path in folder.iterdir()}

    async with loaded(tiny_llama, folder) as engine:
        again, known = await answer(engine, LONG)

    assert (cached, known) == (0, len(LONG) - 1)
    assert again == text
    assert {path: path.stat().st_ino for path in folder.iterdir()} == written
    assert folder.stat().st_mode & 0o077 == 0


async def test_nothing_of_another_model_is_known(tiny_llama: Path, tmp_path: Path) -> None:
    model, folder = shutil.copytree(tiny_llama, tmp_path / "model"), tmp_path / "prefixes"
    async with loaded(model, folder) as engine:
        await answer(engine, LONG)
    weights = model / "model.safetensors"
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))

    async with loaded(model, folder) as engine:
        assert list(folder.iterdir()) == []
        assert (await answer(engine, LONG))[1] == 0


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def leave_half(path: Path) -> None:
    path.rename(path.with_name("half.safetensors"))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, leave_half])
async def test_file_that_is_damaged_is_skipped_and_removed(
    tiny_llama: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "prefixes"
    async with loaded(tiny_llama, folder) as engine:
        text, _ = await answer(engine, LONG)
        await answer(engine, OTHER)
    first, second = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    damage(first)

    async with loaded(tiny_llama, folder) as engine:
        assert list(folder.iterdir()) == [second]
        assert (await answer(engine, LONG)) == (text, 0)
        assert (await answer(engine, OTHER))[1] == len(OTHER) - 1


async def test_files_are_those_of_the_entries_and_keep_their_order(tiny_llama: Path, tmp_path: Path) -> None:
    kept, files = PrefixCache(2**30), PrefixFiles(tmp_path, (tiny_llama,), "float32")
    files.load(kept)
    for first, kind in enumerate((KVCache, RotatingKVCache, KVCache)):
        kept.put([first, *range(1, 100)], filled(100, kind))
    kept.find([0, *range(1, 101)])
    files.save(kept)
    last_used = kept.entries[-1].nbytes

    small = PrefixCache(last_used)
    files.load(small)
    everything = PrefixCache(2**30)
    files.load(everything)
    everything.trim_to(last_used)
    files.save(everything)

    assert [list(entry.tokens[:2]) for entry in small.entries] == [[0, 1]]
    assert len(list(tmp_path.iterdir())) == 1


async def test_folder_that_cannot_be_written_costs_only_what_would_be_in_it(tiny_llama: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")

    async with loaded(tiny_llama, blocked / "prefixes") as engine:
        await answer(engine, LONG)

        assert (await answer(engine, LONG))[1] == len(LONG) - 1
