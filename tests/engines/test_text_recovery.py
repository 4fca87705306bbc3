"""A row that fails: those beside it go on as if it had not been there."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from actors.engines.text_sampling import Sampling
from bus.errors import BusError, LostError, RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, Regex

pytestmark = pytest.mark.asyncio(loop_scope="session")

MORE_THAN_LOGITS = Sampling(top_k=10**6)
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1.0, "seed": 7},
    "penalised": {"temperature": 0, "presence_penalty": 1.0, "frequency_penalty": 0.5},
    "constrained": {"temperature": 1.0, "seed": 3, "grammar": Regex(pattern="[a-z ]{200}")},
    "scored": {"temperature": 0, "top_logprobs": 2},
}


def request(**settings: Any) -> ChatRequest:
    return ChatRequest(prompt="You may reproduce and distribute copies of the", max_tokens=60, **settings)


class RoomForOne:
    """A model on a machine that has memory for one row."""

    def __init__(self, model: Any) -> None:
        self.layers = model.layers
        self._model = model

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        if inputs.shape[0] > 1:
            raise MemoryError("too much")
        return self._model(inputs, **kwargs)


@asynccontextmanager
async def running(path: Path, **limits: Any) -> AsyncGenerator[TextEngine]:
    engine = TextEngine(path, TextLimits(prefill_step=16, **limits))
    await engine.load()
    try:
        yield engine
    finally:
        await engine.unload()


async def said(chunks: AsyncGenerator[Any]) -> tuple[str, str | None, int]:
    """Return text, reason and the number of tokens with log probabilities."""
    heard = [chunk async for chunk in chunks if isinstance(chunk, ChatChunk)]
    return "".join(chunk.text for chunk in heard), heard[-1].finish_reason, sum(len(each.logprobs) for each in heard)


async def fail(engine: TextEngine) -> BusError:
    """Return the error of a row that breaks the step in which it is sampled."""
    work = structs.replace(engine.prepare(request()), sampling=MORE_THAN_LOGITS)
    with pytest.raises(BusError) as failed:
        await said(engine.generate(work))
    return failed.value


async def test_rows_beside_one_that_fails_go_on_as_before(tiny_llama: Path) -> None:
    async with running(tiny_llama) as engine:
        works = [engine.prepare(request(**settings)) for settings in REQUESTS.values()]
        alone = [await said(engine.generate(work)) for work in works]

        beside = [asyncio.create_task(said(engine.generate(work))) for work in works]
        errors = [await fail(engine) for _ in range(3)]
        found = await asyncio.gather(*beside)

    assert dict(zip(REQUESTS, found, strict=True)) == dict(zip(REQUESTS, alone, strict=True))
    assert [error.code for error in errors] == ["internal_error"] * 3


async def test_waiting_row_and_one_with_a_draft_survive_too(text_engine: TextEngine, tiny_llama: Path) -> None:
    expected = await said(text_engine.generate(text_engine.prepare(request(temperature=0))))
    async with running(tiny_llama, draft=tiny_llama, kv_bytes=2**20) as engine:
        first = engine.generate(engine.prepare(request(temperature=0)))
        head = await anext(first)
        others = [asyncio.create_task(said(engine.generate(engine.prepare(request(temperature=0))))) for _ in range(8)]
        error = await fail(engine)
        rest = await said(first)
        found = await asyncio.gather(*others)

    assert isinstance(head, ChatChunk)
    assert (head.text + rest[0], rest[1]) == expected[:2]
    assert found == [expected] * 8
    assert error.code == "internal_error"


async def test_rows_that_only_fail_together_are_given_up(tiny_llama: Path) -> None:
    async with running(tiny_llama) as engine:
        batch = engine._parts.batch if engine._parts else None
        assert batch
        batch._model = RoomForOne(batch._model)  # type: ignore[assignment]  # it does not have all of a model
        await engine._thread.call(batch._recover, RuntimeError("take the other model"))
        tasks = [asyncio.create_task(said(engine.generate(engine.prepare(request(temperature=0))))) for _ in range(2)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        last = await said(engine.generate(engine.prepare(request(temperature=0))))

    assert {type(result) for result in results} == {RefusedError}
    assert last[1] == "length"


async def test_engine_whose_model_fails_for_everyone_is_broken(tiny_llama: Path) -> None:
    async with running(tiny_llama) as engine:
        work = engine.prepare(request(temperature=0))
        batch = engine._parts.batch if engine._parts else None
        assert batch

        def nothing(*_: Any, **__: Any) -> Any:
            raise RuntimeError("the device is gone")

        batch._model = nothing  # type: ignore[assignment]  # a device that is gone
        assert (await fail(engine)).code == "internal_error"

        for use in (engine.ping(), anext(engine.generate(work))):
            with pytest.raises(LostError) as lost:
                await use
            assert lost.value.code == "crashed"
