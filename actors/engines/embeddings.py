"""The embedding engine: texts of many requests at once through one model of mlx-embeddings.

Leaves the folder, the tokens and the mathematics to the embeddings_… modules beside it, the order of work to rows.py.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from msgspec import Struct

from actors.engines.blas import prepare_blas
from actors.engines.contents import inputs_of, without_pictures
from actors.engines.embeddings_folder import EmbeddingFolder, read_folder
from actors.engines.embeddings_model import VectorModel, default_batch_tokens
from actors.engines.embeddings_tokens import EmbedWork, InputTokens
from actors.engines.engine import NO_PICTURES, ModelFacts, Pictures
from actors.engines.rows import Rows, not_loaded
from actors.engines.rows_batch import Batches
from actors.model_files import check_files
from bus.messages.embeddings import EmbedChunk, EmbedRequest, ImagePart, VideoPart


class EmbeddingLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much goes through the model, and onto the bus, at a time.

    `batch_tokens` counts padding; unsaid it is 512 on the CPU, where padding costs most, and 8192 on a GPU.
    `matryoshka_dimensions`, unless empty, take the place of what the folder declares.
    """

    batch_tokens: int | None = None
    window: int = 128
    chunk_bytes: int = 256 * 1024
    warmup: bool = True
    matryoshka_dimensions: tuple[int, ...] = ()


class EmbeddingEngine:
    """Serves one model folder."""

    def __init__(self, path: Path, limits: EmbeddingLimits) -> None:
        self._path = path
        self._is_warmed_up = limits.warmup
        batches = Batches(limits.batch_tokens or default_batch_tokens(), limits.window)
        self._rows: Rows[tuple[int, ...]] = Rows(f"embeddings/{path.name}", batches, limits.chunk_bytes)
        self._tokens: InputTokens | None = None

    async def load(self) -> ModelFacts:
        """Load and, unless the limits say no, warm up.

        Raises `RefusedError` for a folder that cannot be served, `ModelFilesError` for one that should not be read,
        and `ValueError` for weights that do not fit it.
        """
        folder = read_folder(self._path)
        check_files(self._path)
        self._tokens = InputTokens(folder)
        model = await self._rows.load(lambda: VectorModel(folder), warm_up=self._is_warmed_up)
        return _facts(folder, model)

    def pictures_of(self, request: EmbedRequest) -> tuple[ImagePart | VideoPart, ...]:
        """Return none: this model reads texts. Raises `RefusedError` if there is one."""
        without_pictures(inputs_of(request))
        return ()

    def prepare(self, request: EmbedRequest, _: Pictures = NO_PICTURES) -> EmbedWork:
        """Return `request` as tokens. Raises `RefusedError` if an input is empty or too long.

        Costs about 0.4 ms per 1,000 characters. Changes nothing, so a caller with much text may use a thread.
        """
        if self._tokens is None:
            raise not_loaded()
        return self._tokens.work(request)

    async def embed(self, work: EmbedWork) -> AsyncGenerator[EmbedChunk]:
        """Yield the vectors in the order of the inputs, a run of them per chunk, as soon as it has no gap.

        Closing the generator drops what has not been computed. Raises what the model raised.
        """
        async with aclosing(self._rows.run(work.tokens, [len(tokens) for tokens in work.tokens])) as runs:
            async for start, vectors in runs:
                is_last = start + len(vectors) == len(work.tokens)
                yield EmbedChunk(start=start, vectors=vectors, prompt_tokens=work.prompt_tokens if is_last else None)

    async def ping(self) -> None:
        """Return when the engine thread has answered."""
        await self._rows.ping()

    async def unload(self) -> None:
        """Free the model and end the thread. Requests under way end with `RefusedError`."""
        self._tokens = None
        await self._rows.unload()


def _facts(folder: EmbeddingFolder, model: VectorModel) -> ModelFacts:
    return ModelFacts(
        family=folder.family,
        context_length=folder.max_tokens,
        size_bytes=model.size_bytes,
        dtype=model.dtype,
        blas=prepare_blas(),
        dimensions=model.dimensions,
    )
