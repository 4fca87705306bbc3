"""A thread that touches mlx. Knows nothing of models."""

import asyncio
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar, TypeVarTuple

import mlx.core as mx
import structlog

from bus.errors import LostError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.get_logger()

_LOOK_UP = 1.0


class _Job(NamedTuple):
    run: Callable[[], object]
    fail: Callable[[Exception], None]


class EngineThread:
    """Runs jobs one after the other, in the order in which they came, on a thread of its own.

    mlx arrays belong to the thread that made them until they are computed, so a batch is built and evaluated on one.
    It ends with `close`, with a job that fails and has no owner, or soon after the main thread has ended.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=False)
        self._has_ended = False

    def start(self) -> None:
        """Start the thread. May be called once."""
        self._thread.start()

    async def call(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `fn` on the thread and return what it returns, or raise what it raises.

        A cancelled caller stops waiting, but `fn` still runs. Raises `LostError` if the thread has ended.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.submit(lambda: _resolve(future, fn(*args)), lambda error: _reject(future, error))
        return await future

    def submit(self, fn: Callable[[], object], fail: Callable[[Exception], None] | None = None) -> None:
        """Put `fn` into the queue and return at once. Callable from any thread, also from a job.

        If `fn` raises, `fail` gets the error, on the thread; without `fail` the thread ends.
        If the thread ends before `fn` ran, `fail` gets a `LostError`.
        """
        self._jobs.put(_Job(fn, fail or self._end))
        if self._has_ended:
            self._drop_jobs()

    async def close(self) -> None:
        """Run the jobs that are queued, then end the thread; without one, drop them. Closing again does nothing."""
        if not self._thread.is_alive():
            self._has_ended = True
            self._drop_jobs()
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.put(None)
        # This job comes after the end, so the thread drops it as its last act.
        self.submit(lambda: None, lambda _: _resolve(future, None))
        await future
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._has_ended and (job := self._next()) is not None:
                self._guard(job)
        finally:
            self._has_ended = True
            # A thread with open mlx streams aborts the process when it exits (rc 134).
            mx.clear_streams()
            self._drop_jobs()

    def _next(self) -> _Job | None:
        # A main thread that died without closing tells nobody, and waits for this thread to end.
        while threading.main_thread().is_alive():
            with suppress(Empty):
                return self._jobs.get(timeout=_LOOK_UP)
        return None

    def _guard(self, job: _Job) -> None:
        try:
            job.run()
        except Exception as error:  # noqa: BLE001 - whatever a job raises belongs to its owner
            job.fail(error)

    def _end(self, error: Exception) -> None:
        if not self._has_ended:
            self._has_ended = True
            # As text and not as exc_info: some renderers print the variables too, and with them a prompt.
            log.error("engine.crashed", traceback="".join(traceback.format_exception(error)))

    def _drop_jobs(self) -> None:
        with suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job.fail(LostError("crashed", f"the engine thread {self._name} has ended"))


def _resolve(future: asyncio.Future[T], result: T) -> None:
    def settle() -> None:
        if not future.done():
            future.set_result(result)

    _tell(future, settle)


def _reject(future: asyncio.Future[T], error: Exception) -> None:
    def settle() -> None:
        if not future.done():
            future.set_exception(error)

    _tell(future, settle)


def _tell(future: asyncio.Future[T], settle: Callable[[], None]) -> None:
    # A closed loop has nobody waiting on it any more.
    with suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(settle)
