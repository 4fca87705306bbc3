"""The mailbox: bounded, in order, and without a leak."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from actors.mailbox import Finished, Limits, Mailbox
from bus.errors import LostError, RefusedError
from bus.frames import Status
from bus.serve import Caller


class Gated:
    """Says its request, then waits until it is told to end."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.is_read = asyncio.Event()
        self.running: list[str] = []
        self.most = 0

    async def prepare(self, request: str) -> str:
        if request.startswith("long"):
            await self.is_read.wait()
        if request.endswith("bad"):
            raise RefusedError("invalid_request", "Bad.")
        return request

    async def receive(self, work: str) -> AsyncGenerator[str]:
        self.running.append(work)
        self.most = max(self.most, len(self.running))
        try:
            yield work
            if work == "lost":
                raise LostError("unavailable", "Gone.")
            if work == "crash":
                raise ZeroDivisionError
            await self.gate.wait()
        finally:
            self.running.remove(work)


class Box:
    """A mailbox, its actor, and what it tells of finished requests."""

    def __init__(self, **limits: float) -> None:
        self.actor = Gated()
        self.finished: list[Finished[str]] = []
        self.mailbox = Mailbox(
            self.actor,
            Limits(**({"concurrency": 1} | limits)),  # type: ignore[arg-type]
            self.finished.append,
            "test-1",
        )

    def ask(self, request: str) -> AsyncGenerator[str | Status]:
        return self.mailbox.receive(request, Caller(request_id=request))

    def asked(self, request: str) -> asyncio.Task[list[str | Status]]:
        async def ask() -> list[str | Status]:
            async with aclosing(self.ask(request)) as items:
                return [item async for item in items]

        return asyncio.create_task(ask())

    @property
    def outcomes(self) -> dict[str, str]:
        assert len({one.request_id for one in self.finished}) == len(self.finished)
        return {one.request_id: one.outcome for one in self.finished}


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_request_is_told_its_place_and_then_answered() -> None:
    box = Box()
    first, second, third = box.asked("a"), box.asked("b"), box.asked("c")
    await settle()
    load = box.mailbox.load
    box.actor.gate.set()

    assert await first == [Status(instance="test-1", position=0), "a"]
    assert await second == [Status(instance="test-1", position=1), Status(instance="test-1"), "b"]
    assert await third == [Status(instance="test-1", position=2), Status(instance="test-1"), "c"]
    assert (load.running, load.queued) == (1, 2)
    assert box.outcomes == {"a": "completed", "b": "completed", "c": "completed"}


async def test_requests_run_in_the_order_of_their_arrival() -> None:
    box, ran = Box(), []
    tasks = [box.asked(str(n)) for n in range(20)]
    await settle()
    for _ in range(20):
        ran.append(box.actor.running[0])
        tasks[len(ran) - 1].cancel()
        await settle()

    assert ran == [str(n) for n in range(20)]
    assert set(box.outcomes.values()) == {"cancelled"}


async def test_as_many_run_at_once_as_may() -> None:
    box = Box(concurrency=3)
    tasks = [box.asked(str(n)) for n in range(10)]
    await settle()
    box.actor.gate.set()
    await asyncio.gather(*tasks)

    assert box.actor.most == 3
    assert box.mailbox.load.served == 10


async def test_101st_that_waits_is_refused_at_once() -> None:
    box = Box(max_queue=100)
    tasks = [box.asked(str(n)) for n in range(101)]
    await settle()
    with pytest.raises(RefusedError) as refused:
        await anext(box.ask("late"))
    box.actor.gate.set()
    await asyncio.gather(*tasks)

    assert refused.value.code == "queue_full"
    assert refused.value.failure.retry_after == 1
    assert box.outcomes["late"] == "queue_full"
    assert len(box.finished) == 102
    assert box.mailbox.load.refused == 1


async def test_wrong_request_is_refused_before_it_waits() -> None:
    box = Box()
    box.asked("a")
    await settle()
    with pytest.raises(RefusedError) as refused:
        await anext(box.ask("bad"))

    assert refused.value.code == "invalid_request"
    assert box.outcomes == {"bad": "invalid_request"}
    assert box.mailbox.load.queued == 0


async def test_asker_hears_of_a_request_that_takes_long_to_be_prepared() -> None:
    box = Box(notice=0.001)
    good, bad = box.ask("long"), box.ask("long and bad")
    told = [await anext(items) for items in (good, bad)]
    load = box.mailbox.load
    box.actor.is_read.set()
    box.actor.gate.set()
    rest = [item async for item in good]
    with pytest.raises(RefusedError, match="Bad"):
        [item async for item in bad]

    assert told == [Status(instance="test-1", position=1)] * 2
    assert (load.running, load.queued) == (0, 0)
    assert rest[-2:] == [Status(instance="test-1"), "long"]
    assert box.outcomes == {"long": "completed", "long and bad": "invalid_request"}


async def test_leaving_while_a_request_is_prepared_ends_that() -> None:
    box = Box(notice=0.001)
    items = box.ask("long")
    await anext(items)
    before = len(asyncio.all_tasks())
    await items.aclose()

    assert len(asyncio.all_tasks()) == before - 1
    assert box.outcomes == {"long": "cancelled"}
    assert box.mailbox.load.running == 0


async def test_leaving_while_waiting_gives_the_place_to_the_next() -> None:
    box = Box(max_queue=1)
    running, waiting = box.asked("a"), box.asked("b")
    await settle()
    waiting.cancel()
    await settle()
    late = box.asked("c")
    await settle()
    box.actor.gate.set()
    await asyncio.gather(running, late)

    assert box.outcomes == {"b": "cancelled", "a": "completed", "c": "completed"}


async def test_leaving_while_running_lets_the_next_run() -> None:
    box = Box()
    items = box.ask("a")
    await anext(items)
    await anext(items)
    waiting = box.asked("b")
    await settle()
    await items.aclose()
    await settle()

    assert box.actor.running == ["b"]
    assert box.outcomes == {"a": "cancelled"}
    waiting.cancel()


async def test_leaving_right_after_the_status_frees_the_place() -> None:
    box = Box()
    items = box.ask("a")
    await anext(items)
    await items.aclose()

    assert box.mailbox.load.running == 0
    assert box.outcomes == {"a": "cancelled"}


async def test_leaving_just_when_its_turn_comes_leaks_no_place() -> None:
    box = Box()
    first, second, third = box.asked("a"), box.asked("b"), box.asked("c")
    await settle()
    first.cancel()
    await asyncio.sleep(0)  # the turn is given to the second, which has not noticed yet
    second.cancel()
    await settle()

    assert box.actor.running == ["c"]
    assert box.mailbox.load.running == 1
    third.cancel()
    await settle()
    assert box.mailbox.load.running == 0
    assert box.outcomes == {"a": "cancelled", "b": "cancelled", "c": "cancelled"}


async def test_request_that_waits_too_long_is_refused() -> None:
    box = Box(queue_timeout=0.01)
    box.asked("a")
    await settle()
    with pytest.raises(RefusedError) as refused:
        await box.asked("b")

    assert refused.value.code == "queue_timeout"
    assert box.outcomes == {"b": "queue_timeout"}
    assert box.mailbox.load.queued == 0


async def test_running_request_is_not_timed_by_the_queue() -> None:
    box = Box(queue_timeout=0.001)
    running = box.asked("a")
    await asyncio.wait((running,), timeout=0.02)
    box.actor.gate.set()

    assert (await running)[1] == "a"


@pytest.mark.parametrize(("request_", "outcome"), [("lost", "unavailable"), ("crash", "crashed")])
async def test_request_that_fails_frees_its_place_and_says_how(request_: str, outcome: str) -> None:
    box = Box()
    with pytest.raises((LostError, ZeroDivisionError)):
        await box.asked(request_)

    assert box.outcomes == {request_: outcome}
    assert box.mailbox.load.running == 0


async def test_finished_request_tells_its_times_and_its_last_piece() -> None:
    box = Box()
    box.actor.gate.set()
    await box.asked("a")

    (finished,) = box.finished
    assert finished.last == "a"
    assert finished.first is not None
    assert 0 <= finished.queued <= finished.first <= finished.total


async def test_worker_waits_for_room_until_a_request_would_run_at_once() -> None:
    box = Box()
    await box.mailbox.room()
    running, waiting = box.asked("a"), box.asked("b")
    await settle()
    room = asyncio.create_task(box.mailbox.room())
    running.cancel()
    await settle()
    early = room.done()
    waiting.cancel()
    async with asyncio.timeout(10):
        await room

    assert not early


steps = some.lists(
    some.one_of(
        some.just(("ask", 0)),
        some.tuples(some.just("leave"), some.integers(0, 20)),
        some.just(("settle", 0)),
        some.just(("step", 0)),
    ),
    max_size=60,
)


@given(steps, some.integers(1, 3), some.integers(0, 4))
@settings(max_examples=60)
def test_no_arriving_and_leaving_leaks_a_place(steps: list[tuple[str, int]], concurrency: int, max_queue: int) -> None:
    asyncio.run(_arrive_and_leave(steps, concurrency, max_queue))


async def _arrive_and_leave(steps: list[tuple[str, int]], concurrency: int, max_queue: int) -> None:
    box = Box(concurrency=concurrency, max_queue=max_queue)
    tasks: list[asyncio.Task[list[str | Status]]] = []
    for step, which in steps:
        if step == "ask":
            tasks.append(box.asked(str(len(tasks))))
        elif step == "leave" and which < len(tasks):
            tasks[which].cancel()
        elif step == "settle":
            await settle()
        else:
            await asyncio.sleep(0)
        load = box.mailbox.load
        assert 0 <= load.running <= concurrency
        assert load.queued <= max_queue
        assert load.queued == 0 or load.running == concurrency
    box.actor.gate.set()
    for task in tasks:
        with suppress(asyncio.CancelledError, RefusedError):
            await task

    assert box.actor.most <= concurrency
    assert (box.mailbox.load.running, box.mailbox.load.queued) == (0, 0)
    assert set(box.outcomes.values()) <= {"completed", "cancelled", "queue_full"}
