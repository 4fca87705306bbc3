"""Rows of many requests through one model on threads of its own: what waits, what runs, and what has come back.

Knows nothing of what a row is: its model reads it, and whoever queues it says its length in tokens.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

from actors.engines.rows_batch import Batches
from actors.engines.rows_shared import Asker, SharedResults
from actors.engines.thread import EngineThread
from bus.errors import RefusedError

# Whoever hears nothing for long takes a request for lost.
_PATIENCE = 15.0

RowT = TypeVar("RowT")
RowT_contra = TypeVar("RowT_contra", contravariant=True)


class RowModel(Protocol[RowT_contra]):
    """A loaded model, used on the engine threads only; `results` on several at once if there are several."""

    def warm_up(self) -> None:
        """Run once on each thread what every request will run, so that none pays for preparing kernels."""
        ...

    def results(self, rows: Sequence[RowT_contra]) -> Sequence[bytes]:
        """Return one result for each row, never an empty one."""
        ...

    def free(self) -> None:
        """Give the weights back. No other call may follow."""
        ...


ModelT = TypeVar("ModelT", bound=RowModel[Any])


class _Job(Generic[RowT]):
    """One request under way: the results that have come, and whether there is news."""

    def __init__(self, rows: Sequence[RowT], keys: Sequence[Hashable]) -> None:
        self.rows = rows
        self.keys = keys
        self.results: list[bytes] = [b""] * len(rows)
        self.news = asyncio.Event()
        self.error: Exception | None = None

    def run_from(self, start: int, chunk_bytes: int) -> int:
        """Return where a chunk that begins at `start` ends: at a gap, or when it is full."""
        end, room = start, chunk_bytes
        while end < len(self.results) and self.results[end] and (end == start or room >= len(self.results[end])):
            room -= len(self.results[end])
            end += 1
        return end


class Rows(Generic[RowT]):
    """Serves one model. Rows that arrive while batches run leave together with the next ones."""

    def __init__(self, name: str, batches: Batches, chunk_bytes: int, keep_bytes: int = 0, streams: int = 1) -> None:
        """`chunk_bytes` is what is yielded at a time, unless a single result is larger.

        `keep_bytes` is what results may take that are kept for rows alike, `streams` how many batches run at once.
        """
        self._threads = tuple(EngineThread(name) for _ in range(streams))
        self._batches = batches
        self._chunk_bytes = chunk_bytes
        self._shared = SharedResults(keep_bytes)
        self._model: RowModel[RowT] | None = None
        self._idle: list[EngineThread] = []
        # The requests that a row which is being computed is for.
        self._running: dict[Hashable, set[int]] = {}
        self._jobs: dict[int, _Job[RowT]] = {}
        self._numbers = count()

    async def load(self, build: Callable[[], ModelT], *, warm_up: bool) -> ModelT:
        """Start the threads, build the model on one and return it. Raises what `build` raises, the threads ended."""
        async with AsyncExitStack() as stack:
            for thread in self._threads:
                thread.start()
                stack.push_async_callback(thread.close)
            model = await self._threads[0].call(build)
            for thread in self._threads if warm_up else ():
                await thread.call(model.warm_up)
            self._model = model
            self._idle += self._threads
            stack.pop_all()
        return model

    async def run(
        self, rows: Sequence[RowT], lengths: Sequence[int], keys: Sequence[Hashable] | None = None
    ) -> AsyncGenerator[tuple[int, tuple[bytes, ...]]]:
        """Yield the results in the order of the rows, as (number of the first, results), as soon as there is no gap.

        An empty run every 15 s says that it goes on, while others are before it. Rows with equal `keys`, of any
        requests, are computed once; without `keys` no row is like another.
        Closing the generator drops what has not been computed. Raises what the model raised.
        """
        number = next(self._numbers)
        job = _Job(rows, keys or [Asker(number, index) for index in range(len(rows))])
        self._jobs[number] = job
        try:
            self._queue(number, job, lengths)
            start = 0
            while start < len(rows):
                end = job.run_from(start, self._chunk_bytes)
                if end > start:
                    results, job.results[start:end] = tuple(job.results[start:end]), [b""] * (end - start)
                    yield start, results
                    start = end
                elif not await _has_news(job):
                    yield start, ()
        finally:
            self._batches.drop(number)
            self._shared.leave(number, job.keys)
            self._jobs.pop(number, None)

    async def ping(self) -> None:
        """Return when each engine thread has answered."""
        await asyncio.gather(*(thread.call(lambda: None) for thread in self._threads))

    async def unload(self) -> None:
        """Free the model, which nobody uses any more then, and end the threads.

        Requests under way end with `RefusedError`.
        """
        self._end(tuple(self._jobs), not_loaded())
        self._shared.forget()
        model, self._model = self._model, None
        builder, *others = self._threads
        for thread in others:
            await thread.close()
        if model is not None:
            await builder.call(model.free)
        await builder.close()

    def _queue(self, number: int, job: _Job[RowT], lengths: Sequence[int]) -> None:
        known, unknown = self._shared.ask(number, job.keys)
        for index, result in known.items():
            job.results[index] = result
        self._batches.add(number, {index: lengths[index] for index in unknown})
        self._advance()

    def _advance(self) -> None:
        """Send a batch to each thread that has none, while there are any."""
        if self._model is None:
            self._end(tuple(self._jobs), not_loaded())
            return
        while self._idle and (batch := self._next_batch()):
            self._submit(self._model, self._idle.pop(), batch)

    def _next_batch(self) -> dict[Hashable, RowT]:
        """Return the next rows that are to be computed, by their keys; empty if there are none."""
        batch: dict[Hashable, RowT] = {}
        while not batch and (items := self._batches.next()):
            for item in items:
                job = self._jobs[item.request]
                key = job.keys[item.index]
                # A neighbour's row alike may have come first, or be under way.
                if key in self._running:
                    self._running[key].add(item.request)
                elif self._shared.is_wanted(key):
                    self._running[key] = {item.request}
                    batch[key] = job.rows[item.index]
        return batch

    def _submit(self, model: RowModel[RowT], thread: EngineThread, batch: Mapping[Hashable, RowT]) -> None:
        loop = asyncio.get_running_loop()

        def run() -> None:
            results = dict(zip(batch, model.results(tuple(batch.values())), strict=True))
            _tell(loop, lambda: self._arrive(thread, results))

        def fail(error: Exception) -> None:
            _tell(loop, lambda: self._fail(thread, batch, error))

        thread.submit(run, fail)

    def _arrive(self, thread: EngineThread, results: Mapping[Hashable, bytes]) -> None:
        for key, result in results.items():
            del self._running[key]
            for asker in self._shared.arrived(key, result):
                job = self._jobs[asker.request]
                job.results[asker.row] = result
                job.news.set()
        self._idle.append(thread)
        self._advance()

    def _fail(self, thread: EngineThread, keys: Iterable[Hashable], error: Exception) -> None:
        self._end({number for key in keys for number in self._running.pop(key)}, error)
        self._idle.append(thread)
        self._advance()

    def _end(self, requests: Iterable[int], error: Exception) -> None:
        for number in requests:
            self._batches.drop(number)
            if job := self._jobs.get(number):
                self._shared.leave(number, job.keys)
                job.error = error
                job.news.set()


def not_loaded() -> RefusedError:
    """Return what a request is told when there is no model."""
    return RefusedError("unavailable", "This model is not loaded.")


async def _has_news(job: _Job[RowT]) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            await job.news.wait()
    except TimeoutError:
        return False
    job.news.clear()
    if job.error is not None:
        raise job.error
    return True


def _tell(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    # A closed loop has nobody waiting on it any more.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(act)
