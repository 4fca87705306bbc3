"""Rows of many requests through one model on a thread of its own: what waits, what runs, and what has come back.

Knows nothing of what a row is: its model reads it, and whoever queues it says its length in tokens.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

from actors.engines.rows_batch import Batches, Item
from actors.engines.rows_shared import Asker, SharedResults
from actors.engines.thread import EngineThread
from bus.errors import RefusedError

# Whoever hears nothing for long takes a request for lost.
_PATIENCE = 15.0

RowT = TypeVar("RowT")
RowT_contra = TypeVar("RowT_contra", contravariant=True)


class RowModel(Protocol[RowT_contra]):
    """A loaded model, used on the engine thread only."""

    def warm_up(self) -> None:
        """Run once what every request will run, so that none pays for preparing kernels."""
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
    """Serves one model. Rows that arrive while a batch runs leave together with the next ones."""

    def __init__(self, name: str, batches: Batches, chunk_bytes: int, keep_bytes: int = 0) -> None:
        """`chunk_bytes` is what is yielded at a time, unless a single result is larger.

        `keep_bytes` is what results may take that are kept for rows alike.
        """
        self._thread = EngineThread(name)
        self._batches = batches
        self._chunk_bytes = chunk_bytes
        self._shared = SharedResults(keep_bytes)
        self._model: RowModel[RowT] | None = None
        self._is_running = False
        self._jobs: dict[int, _Job[RowT]] = {}
        self._numbers = count()

    async def load(self, build: Callable[[], ModelT], *, warm_up: bool) -> ModelT:
        """Start the thread, build the model on it and return it. Raises what `build` raises, the thread ended."""
        async with AsyncExitStack() as stack:
            self._thread.start()
            stack.push_async_callback(self._thread.close)
            model = await self._thread.call(build)
            if warm_up:
                await self._thread.call(model.warm_up)
            self._model = model
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
        """Return when the engine thread has answered."""
        await self._thread.call(lambda: None)

    async def unload(self) -> None:
        """Free the model and end the thread. Requests under way end with `RefusedError`."""
        self._end(tuple(self._jobs), not_loaded())
        self._shared.forget()
        if self._model is not None:
            model, self._model = self._model, None
            await self._thread.call(model.free)
        await self._thread.close()

    def _queue(self, number: int, job: _Job[RowT], lengths: Sequence[int]) -> None:
        known, unknown = self._shared.ask(number, job.keys)
        for index, result in known.items():
            job.results[index] = result
        self._batches.add(number, {index: lengths[index] for index in unknown})
        self._advance()

    def _advance(self) -> None:
        """Send the next batch to the thread, unless one is there."""
        if self._model is None:
            self._end(tuple(self._jobs), not_loaded())
            return
        batch: dict[Hashable, Item] = {}
        while not (self._is_running or batch) and (items := self._batches.next()):
            # A neighbour's row alike may have come first.
            named = {self._jobs[item.request].keys[item.index]: item for item in items}
            batch = {key: item for key, item in named.items() if self._shared.is_wanted(key)}
        if not batch:
            return
        self._is_running = True
        model, loop = self._model, asyncio.get_running_loop()
        rows = [self._jobs[item.request].rows[item.index] for item in batch.values()]

        def run() -> None:
            results = dict(zip(batch, model.results(rows), strict=True))
            _tell(loop, lambda: self._arrive(results))

        def fail(error: Exception) -> None:
            _tell(loop, lambda: self._fail(batch.values(), error))

        self._thread.submit(run, fail)

    def _arrive(self, results: Mapping[Hashable, bytes]) -> None:
        for key, result in results.items():
            for asker in self._shared.arrived(key, result):
                job = self._jobs[asker.request]
                job.results[asker.row] = result
                job.news.set()
        self._is_running = False
        self._advance()

    def _fail(self, batch: Iterable[Item], error: Exception) -> None:
        self._end({item.request for item in batch}, error)
        self._is_running = False
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
