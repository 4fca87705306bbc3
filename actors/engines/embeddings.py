"""The embedding engine: texts of many requests at once through one model of mlx-embeddings.

Leaves the folder, the tokens, the order of work and the mathematics to the embeddings_… modules beside it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import count
from pathlib import Path

from msgspec import Struct

from actors.engines.blas import prepare_blas
from actors.engines.embeddings_batch import Batches, Item
from actors.engines.embeddings_folder import EmbeddingFolder, read_folder
from actors.engines.embeddings_model import VectorModel, default_batch_tokens
from actors.engines.embeddings_tokens import EmbedWork, InputTokens
from actors.engines.engine import ModelFacts
from actors.engines.thread import EngineThread
from actors.model_files import check_files
from bus.errors import RefusedError
from bus.messages.embeddings import EmbedChunk, EmbedRequest


class EmbeddingLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much goes through the model, and onto the bus, at a time.

    `batch_tokens` counts padding; unsaid it is 512 on the CPU, where padding costs most, and 8192 on a GPU.
    """

    batch_tokens: int | None = None
    window: int = 128
    chunk_bytes: int = 256 * 1024
    warmup: bool = True


class _Job:
    """One request under way: the vectors that have come, and whether there is news."""

    def __init__(self, work: EmbedWork) -> None:
        self.work = work
        self.vectors: list[bytes] = [b""] * len(work.tokens)
        self.news = asyncio.Event()
        self.error: Exception | None = None

    def run_from(self, start: int, chunk_bytes: int) -> int:
        """Return where a chunk that begins at `start` ends: at a gap, or when it is full."""
        end, room = start, chunk_bytes
        while end < len(self.vectors) and self.vectors[end] and (end == start or room >= len(self.vectors[end])):
            room -= len(self.vectors[end])
            end += 1
        return end


class EmbeddingEngine:
    """Serves one model folder. Inputs that arrive while a batch runs leave together with the next ones."""

    def __init__(self, path: Path, limits: EmbeddingLimits) -> None:
        self._path = path
        self._limits = limits
        self._thread = EngineThread(f"embeddings/{path.name}")
        self._tokens: InputTokens | None = None
        self._model: VectorModel | None = None
        self._batches = Batches(limits.batch_tokens or default_batch_tokens(), limits.window)
        self._is_running = False
        self._jobs: dict[int, _Job] = {}
        self._numbers = count()

    async def load(self) -> ModelFacts:
        """Load and, unless the limits say no, warm up.

        Raises `RefusedError` for a folder that cannot be served, `ModelFilesError` for one that should not be read,
        and `ValueError` for weights that do not fit it.
        The thread has ended then.
        """
        folder = read_folder(self._path)
        check_files(self._path)
        self._tokens = InputTokens(folder)
        async with AsyncExitStack() as stack:
            self._thread.start()
            stack.push_async_callback(self._thread.close)
            model = await self._thread.call(VectorModel, folder)
            if self._limits.warmup:
                await self._thread.call(model.warm_up)
            self._model = model
            stack.pop_all()
        return _facts(folder, model)

    def prepare(self, request: EmbedRequest) -> EmbedWork:
        """Return `request` as tokens. Raises `RefusedError` if an input is empty or too long.

        Costs about 0.4 ms per 1,000 characters. Changes nothing, so a caller with much text may use a thread.
        """
        if self._tokens is None:
            raise _unavailable()
        return self._tokens.work(request)

    async def embed(self, work: EmbedWork) -> AsyncGenerator[EmbedChunk]:
        """Yield the vectors in the order of the inputs, a run of them per chunk, as soon as it has no gap.

        Closing the generator drops what has not been computed. Raises what the model raised.
        """
        number, job = next(self._numbers), _Job(work)
        self._jobs[number] = job
        try:
            self._batches.add(number, [len(tokens) for tokens in work.tokens])
            self._advance()
            start = 0
            while start < len(job.vectors):
                end = job.run_from(start, self._limits.chunk_bytes)
                if end > start:
                    is_last = end == len(job.vectors)
                    vectors, job.vectors[start:end] = tuple(job.vectors[start:end]), [b""] * (end - start)
                    yield EmbedChunk(
                        start=start, vectors=vectors, prompt_tokens=work.prompt_tokens if is_last else None
                    )
                    start = end
                else:
                    await _news(job)
        finally:
            self._batches.drop(number)
            self._jobs.pop(number, None)

    async def ping(self) -> None:
        """Return when the engine thread has answered."""
        await self._thread.call(lambda: None)

    async def unload(self) -> None:
        """Free the model and end the thread. Requests under way end with `RefusedError`."""
        self._tokens = None
        self._end(tuple(self._jobs), _unavailable())
        if self._model is not None:
            model, self._model = self._model, None
            await self._thread.call(model.free)
        await self._thread.close()

    def _advance(self) -> None:
        """Send the next batch to the thread, unless one is there."""
        if self._model is None:
            self._end(tuple(self._jobs), _unavailable())
            return
        batch = () if self._is_running else self._batches.next()
        if not batch:
            return
        self._is_running = True
        model, loop = self._model, asyncio.get_running_loop()
        rows = [self._jobs[item.request].work.tokens[item.index] for item in batch]

        def run() -> None:
            vectors = model.vectors(rows)
            _tell(loop, lambda: self._arrive(batch, vectors))

        def fail(error: Exception) -> None:
            _tell(loop, lambda: self._fail(batch, error))

        self._thread.submit(run, fail)

    def _arrive(self, batch: Sequence[Item], vectors: Sequence[bytes]) -> None:
        for item, vector in zip(batch, vectors, strict=True):
            if job := self._jobs.get(item.request):
                job.vectors[item.index] = vector
                job.news.set()
        self._is_running = False
        self._advance()

    def _fail(self, batch: Sequence[Item], error: Exception) -> None:
        self._end({item.request for item in batch}, error)
        self._is_running = False
        self._advance()

    def _end(self, requests: Iterable[int], error: Exception) -> None:
        for number in requests:
            self._batches.drop(number)
            if job := self._jobs.get(number):
                job.error = error
                job.news.set()


async def _news(job: _Job) -> None:
    await job.news.wait()
    job.news.clear()
    if job.error is not None:
        raise job.error


def _tell(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    # A closed loop has nobody waiting on it any more.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(act)


def _unavailable() -> RefusedError:
    return RefusedError("unavailable", "This model is not loaded.")


def _facts(folder: EmbeddingFolder, model: VectorModel) -> ModelFacts:
    return ModelFacts(
        family=folder.family,
        context_length=folder.max_tokens,
        size_bytes=model.size_bytes,
        dtype=model.dtype,
        blas=prepare_blas(),
        dimensions=model.dimensions,
    )
