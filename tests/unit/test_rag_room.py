"""Room that several share."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from actors.rag.room import Room


async def entered(room: Room, size: int, order: list[int]) -> None:
    async with room.taken(size):
        order.append(size)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_needs_more_than_is_left_waits_and_nobody_passes() -> None:
    room, order = Room(10, least=1), list[int]()
    async with AsyncExitStack() as first:
        await first.enter_async_context(room.taken(6))
        waiting = [asyncio.create_task(entered(room, size, order)) for size in (5, 1)]
        await settled()
        assert order == []

    await asyncio.gather(*waiting)
    assert order == [5, 1]


async def test_small_ones_count_as_the_least_and_huge_ones_as_all() -> None:
    room, order = Room(10, least=4), list[int]()
    async with room.taken(1), room.taken(1):
        waiting = [asyncio.create_task(entered(room, size, order)) for size in (1, 1000)]
        await settled()
        assert order == []

    await asyncio.gather(*waiting)
    assert order == [1, 1000]


async def test_who_leaves_while_waiting_or_breaks_down_takes_nothing() -> None:
    room, order = Room(10, least=1), list[int]()
    with pytest.raises(ZeroDivisionError):
        async with room.taken(10):
            waiting = asyncio.create_task(entered(room, 10, order))
            await settled()
            waiting.cancel()
            raise ZeroDivisionError

    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(10):
        await entered(room, 10, order)
    assert order == [10]
