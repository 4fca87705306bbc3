import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from functools import partial

import pytest
import pytest_asyncio

from actors.engines.thread import EngineThread
from bus.errors import LostError


@pytest_asyncio.fixture
async def thread() -> AsyncGenerator[EngineThread]:
    thread = EngineThread("test")
    thread.start()
    yield thread
    await thread.close()


def divide(dividend: int, divisor: int) -> float:
    return dividend / divisor


async def test_call_returns_what_the_function_returns_on_the_one_thread(thread: EngineThread) -> None:
    assert await thread.call(divide, 6, 4) == 1.5
    assert await thread.call(threading.get_ident) == await thread.call(threading.get_ident)
    assert await thread.call(threading.get_ident) != threading.get_ident()


async def test_call_raises_what_the_function_raises_and_the_thread_goes_on(thread: EngineThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.call(divide, 1, 0)

    assert await thread.call(divide, 1, 1) == 1


async def test_jobs_run_in_the_order_in_which_they_came(thread: EngineThread) -> None:
    seen: list[int] = []
    for number in range(100):
        thread.submit(partial(seen.append, number))

    await thread.call(lambda: None)

    assert seen == list(range(100))


async def test_failed_job_is_told_to_its_owner(thread: EngineThread) -> None:
    errors: list[Exception] = []
    thread.submit(lambda: 1 / 0, errors.append)

    await thread.call(lambda: None)

    assert [type(error) for error in errors] == [ZeroDivisionError]


async def test_failed_job_without_an_owner_ends_the_thread_and_all_who_wait_learn_it(
    thread: EngineThread,
) -> None:
    gate = threading.Event()
    thread.submit(lambda: gate.wait(timeout=20) / 0)
    waiting = asyncio.create_task(thread.call(lambda: None))
    await asyncio.sleep(0)
    gate.set()

    async with asyncio.timeout(20):
        for ping in (waiting, thread.call(lambda: None)):
            with pytest.raises(LostError) as lost:
                await ping
            assert lost.value.code == "crashed"


async def test_jobs_queued_before_the_end_are_run_and_later_ones_are_refused(thread: EngineThread) -> None:
    seen: list[str] = []
    thread.submit(lambda: seen.append("before"))

    await thread.close()
    await thread.close()

    assert seen == ["before"]
    with pytest.raises(LostError):
        await thread.call(seen.append, "after")


async def test_closed_thread_that_never_started_keeps_nobody_waiting() -> None:
    thread = EngineThread("idle")

    await thread.close()

    with pytest.raises(LostError):
        await thread.call(len, "after")


async def test_cancelled_call_still_runs(thread: EngineThread) -> None:
    gate = threading.Event()
    seen: list[str] = []
    thread.submit(lambda: gate.wait(timeout=20))
    waiting = asyncio.create_task(thread.call(seen.append, "ran"))
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait([waiting])
    gate.set()
    await thread.call(lambda: None)

    assert seen == ["ran"]


def test_process_whose_main_thread_dies_does_not_wait_for_ever() -> None:
    script = "from actors.engines.thread import EngineThread; EngineThread('test').start(); 1 / 0"

    process = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=240)

    assert process.returncode == 1
