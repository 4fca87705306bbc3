from pathlib import Path

import pytest

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from bus.frames import Prefill
from bus.messages.chat import ChatChunk, ChatRequest
from tests.support import tiny_models

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_long_prompt_tells_how_much_was_read_and_a_short_one_does_not(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tiny_models.changed(tiny_llama, tmp_path / "roomy", config={"max_position_embeddings": 4096})
    engine = TextEngine(folder, TextLimits(prefill_step=256, progress_interval=0, warmup=False))
    await engine.load()
    prompt = tuple(2 + number % 500 for number in range(3000))

    first, again, short = [await said(engine, asked) for asked in (prompt, (*prompt[:500], 9, *prompt), prompt[:1000])]
    await engine.unload()

    done = [each.done for each in first if isinstance(each, Prefill)]
    assert done == [*range(256, 2999, 256), 2999]
    assert {each.total for each in first if isinstance(each, Prefill)} == {3000}
    # What was known is not read again, and counts as read.
    assert next(each for each in again if isinstance(each, Prefill)) == Prefill(done=500 + 256, total=3501)
    assert all(isinstance(each, ChatChunk) for each in short)
    for items in (first, again, short):
        assert isinstance(items[-1], ChatChunk)
        assert items[-1].finish_reason == "length"


async def said(engine: TextEngine, prompt: tuple[int, ...]) -> list[ChatChunk | Prefill]:
    work = engine.prepare(ChatRequest(prompt=prompt, max_tokens=2, temperature=0, logit_bias={1: -100.0}))
    return [item async for item in engine.generate(work)]
