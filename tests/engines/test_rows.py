"""Rows of many requests through one model: who gets what, whoever leaves or fails meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from threading import Event, Semaphore

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engines.rows import Rows
from actors.engines.rows_batch import Batches
from bus.errors import RefusedError

POISON = "poison"
REQUESTS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", POISON]), max_size=6), min_size=1, max_size=6)


class Gated:
    """Answers with the row itself once the gate is open, and fails for poison."""

    def __init__(self) -> None:
        self.gate = Event()
        self.computed: list[str] = []

    def warm_up(self) -> None:
        """Do nothing."""

    def results(self, rows: Sequence[str]) -> list[bytes]:
        self.gate.wait(30)
        if POISON in rows:
            raise ValueError(POISON)
        self.computed += rows
        return [row.encode() for row in rows]

    def free(self) -> None:
        """Do nothing."""


class Counted(Gated):
    """Says when a batch begins, and keeps a log."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = Semaphore(0)
        self.log: list[str] = []

    def warm_up(self) -> None:
        self.log.append("warm")

    def results(self, rows: Sequence[str]) -> list[bytes]:
        self.begun.release()
        results = super().results(rows)
        self.log.append("end")
        return results

    def free(self) -> None:
        self.log.append("free")


@asynccontextmanager
async def gated(batch_tokens: int, keep_bytes: int, streams: int = 1) -> AsyncGenerator[tuple[Rows[str], Gated]]:
    rows: Rows[str] = Rows("rows", Batches(batch_tokens, 16), 1024, keep_bytes, streams)
    model = await rows.load(Gated, warm_up=False)
    try:
        yield rows, model
    finally:
        model.gate.set()
        await rows.unload()


async def asked(rows: Rows[str], said: Sequence[str]) -> list[str]:
    async with aclosing(rows.run(said, [1] * len(said), said)) as runs:
        return [result.decode() async for _, results in runs for result in results]


async def together(
    requests: list[list[str]], leaving: set[int], keep_bytes: int, streams: int
) -> tuple[list[object], list[str]]:
    """Return how the requests end of which those `leaving` are cancelled while batches run, and what was computed."""
    async with asyncio.timeout(240), gated(1, keep_bytes, streams) as (rows, model):
        tasks = [asyncio.create_task(asked(rows, said)) for said in requests]
        await asyncio.sleep(0)
        for number in leaving & set(range(len(tasks))):
            tasks[number].cancel()
        model.gate.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True)), model.computed


@settings(max_examples=60)
@given(REQUESTS, st.sets(st.integers(0, 5)), st.sampled_from([0, 10**6]), st.integers(1, 3))
def test_each_gets_its_own_whoever_leaves_or_fails(
    requests: list[list[str]], leaving: set[int], keep_bytes: int, streams: int
) -> None:
    ends, computed = asyncio.run(together(requests, leaving, keep_bytes, streams))

    for number, (said, end) in enumerate(zip(requests, ends, strict=True)):
        if number in leaving:
            assert isinstance(end, asyncio.CancelledError | ValueError) or end == said
        elif POISON in said:
            assert isinstance(end, ValueError)
        else:
            assert end == said
    if keep_bytes:
        assert len(computed) == len(set(computed))


async def test_rows_alike_that_are_under_way_are_computed_once_without_anything_kept() -> None:
    async with asyncio.timeout(240), gated(64, 0) as (rows, model):
        tasks = [asyncio.create_task(asked(rows, ["a", "b", "a"])) for _ in range(20)]
        await asyncio.sleep(0)
        model.gate.set()

        assert await asyncio.gather(*tasks) == [["a", "b", "a"]] * 20

    assert sorted(model.computed) == ["a", "b"]


@pytest.mark.parametrize(("batch_tokens", "streams"), [(64, 1), (1, 2)])
async def test_all_who_ask_for_a_row_learn_that_it_failed(batch_tokens: int, streams: int) -> None:
    async with asyncio.timeout(240), gated(batch_tokens, 0, streams) as (rows, model):
        blocking = asyncio.create_task(asked(rows, ["a"]))
        await asyncio.sleep(0)
        tasks = [asyncio.create_task(asked(rows, [POISON])) for _ in range(3)]
        await asyncio.sleep(0)
        model.gate.set()

        ends = await asyncio.gather(*tasks, return_exceptions=True)

        assert [type(end) for end in ends] == [ValueError] * 3
        assert await blocking == ["a"]
        assert await asked(rows, ["b"]) == ["b"]


async def test_with_two_streams_two_batches_run_at_once_and_unloading_waits_for_both() -> None:
    model = Counted()
    rows: Rows[str] = Rows("rows", Batches(1, 16), 1024, streams=2)
    async with asyncio.timeout(240):
        await rows.load(lambda: model, warm_up=True)
        tasks = [asyncio.create_task(asked(rows, [said])) for said in "abcd"]
        await asyncio.to_thread(model.begun.acquire)
        await asyncio.to_thread(model.begun.acquire)
        ping = asyncio.create_task(rows.ping())
        for _ in range(2):  # Until each thread has been asked.
            await asyncio.sleep(0)
        unloading = asyncio.create_task(rows.unload())
        ends = await asyncio.gather(*tasks, return_exceptions=True)

        assert [type(end) for end in ends] == [RefusedError] * 4
        assert not ping.done()
        assert not unloading.done()
        model.gate.set()
        await asyncio.gather(ping, unloading)

    assert model.log == ["warm", "warm", "end", "end", "free"]


async def test_a_row_alone_does_not_wait_for_the_one_alike_at_the_end_of_a_crowd() -> None:
    crowd = [str(number) for number in range(500)]
    async with asyncio.timeout(240), gated(1, 0) as (rows, model):
        many = asyncio.create_task(asked(rows, crowd))
        await asyncio.sleep(0)
        one = asyncio.create_task(asked(rows, ["499"]))
        await asyncio.sleep(0)
        model.gate.set()

        assert await one == ["499"]
        assert len(model.computed) < 20
        assert await many == crowd
    assert len(model.computed) == 500


async def test_what_is_kept_needs_no_model_and_ends_with_it() -> None:
    async with asyncio.timeout(240), gated(1, 10**6) as (rows, model):
        model.gate.set()
        await asked(rows, ["a"])
        model.gate.clear()

        assert await asked(rows, ["a", "a"]) == ["a", "a"]
        model.gate.set()
        await rows.unload()
        with pytest.raises(Exception, match="not loaded"):
            await asked(rows, ["a"])
