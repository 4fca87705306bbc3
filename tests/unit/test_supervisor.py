"""The supervisor: restarts, and knows when to stop."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from actors.supervisor import Child, GaveUpError, Restarts, supervise, supervise_all, supervising
from tests.support.nats import until

QUICK = Restarts(most=3, period=10.0, first_delay=0.0, longest_delay=0.0)


class Clock:
    """A clock that goes on by `step` seconds whenever it is looked at."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self._step = step

    def __call__(self) -> float:
        self.now += self._step
        return self.now


class Lives:
    """Counts its lives; each ends as told, and the one after the last goes on for ever."""

    def __init__(self, *ends: BaseException | None) -> None:
        self.count = 0
        self.stopped = 0
        self._ends = ends

    async def run(self) -> None:
        self.count += 1
        if self.count <= len(self._ends):
            end = self._ends[self.count - 1]
            if end is not None:
                raise end
            return
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped += 1


def child(run: Callable[[], Awaitable[None]], restarts: Restarts = QUICK, **fields: object) -> Child:
    return Child("child", run, restarts=restarts, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "end",
    [ValueError("broken"), None, ExceptionGroup("two", [ValueError()]), asyncio.CancelledError()],
    ids=["error", "return", "group", "cancel of its own"],
)
async def test_child_that_ends_is_restarted(end: BaseException | None) -> None:
    lives = Lives(end, end)
    task = asyncio.create_task(supervise(child(lives.run), Clock(1)))
    await until(lambda: lives.count == 3)
    task.cancel()
    await asyncio.wait((task,))

    assert task.cancelled()
    assert lives.stopped == 1


async def test_child_that_ends_too_often_is_given_up() -> None:
    lives = Lives(*[ValueError("broken")] * 9)

    with pytest.raises(GaveUpError, match=r"child ended 4 times in 10 s; last: ValueError\('broken'\)"):
        await supervise(child(lives.run), Clock(1))

    assert lives.count == 4


@pytest.mark.parametrize(
    ("restarts", "seconds"),
    [(QUICK, 4.0), (Restarts(most=None, first_delay=0.0, longest_delay=0.0), 0.1)],
    ids=["it ends seldom", "it may end at will"],
)
async def test_child_is_restarted_for_ever(restarts: Restarts, seconds: float) -> None:
    lives = Lives(*[None] * 50)
    task = asyncio.create_task(supervise(child(lives.run, restarts), Clock(seconds)))
    await until(lambda: lives.count == 51)
    task.cancel()
    await asyncio.wait((task,))

    assert task.cancelled()


async def test_child_that_is_not_essential_is_given_up_alone() -> None:
    given_up = asyncio.Event()
    lives = Lives(*[None] * 9)

    await supervise(child(lives.run, essential=False, on_given_up=given_up.set), Clock(1))

    assert given_up.is_set()
    assert lives.count == 4


async def test_pause_before_a_restart_doubles_up_to_its_limit() -> None:
    begun: list[float] = []

    async def run() -> None:
        begun.append(asyncio.get_running_loop().time())

    restarts = Restarts(most=4, period=60, first_delay=0.02, longest_delay=0.05)
    with pytest.raises(GaveUpError):
        await supervise(child(run, restarts), Clock(1))

    pauses = [late - early for early, late in pairwise(begun)]
    for pause, least in zip(pauses, (0.02, 0.04, 0.05, 0.05), strict=True):
        assert least * 0.9 < pause < least + 0.5


async def test_children_are_stopped_at_the_end_of_the_block() -> None:
    first, second = Lives(), Lives()
    async with supervising(child(first.run), child(second.run)):
        await until(lambda: first.count and second.count)

    assert (first.stopped, second.stopped) == (1, 1)


async def test_child_comes_and_goes_while_others_run() -> None:
    first, second = Lives(), Lives()
    late = Child("late", second.run)
    async with supervising(child(first.run)) as supervision:
        await until(lambda: first.count)
        supervision.add(late)
        await until(lambda: second.count)
        supervision.remove("late")
        await until(lambda: second.stopped)
        assert first.stopped == 0


async def test_one_that_is_given_up_ends_the_others() -> None:
    hopeless, sound = Lives(*[None] * 99), Lives()
    never = Restarts(most=0, period=1)

    async def give_up() -> None:
        await supervise(child(hopeless.run, never))

    with pytest.raises(ExceptionGroup) as group:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervise_all(child(sound.run)))
            tasks.create_task(give_up())

    assert group.group_contains(GaveUpError)
    assert sound.stopped == sound.count
