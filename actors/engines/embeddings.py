"""The embedding engine: texts of many requests at once through one model of mlx-embeddings.

Leaves the folder, the tokens and the mathematics to the embeddings_… modules beside it, the order of work to rows.py.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from actors.engines.contents import inputs_of, without_pictures
from actors.engines.embeddings_dimensions import Dimensions, asked_dimensions, cut
from actors.engines.embeddings_folder import read_folder
from actors.engines.embeddings_model import VectorModel
from actors.engines.embeddings_tokens import EmbedWork, InputTokens, TokenRow
from actors.engines.engine import NO_PICTURES, ModelFacts, Pictures
from actors.engines.loaded import Loaded, facts_of
from actors.engines.profile import profile
from actors.engines.rows import Rows
from actors.engines.rows_batch import Batches
from actors.model_files import check_files
from bus.messages.embeddings import EmbedChunk, EmbedRequest, ImagePart, VideoPart


class EmbeddingLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much goes through the model, and onto the bus, at a time.

    `batch_tokens` counts padding; unsaid it is that of the machine's profile. `cache_bytes` is what vectors may take
    that are kept for inputs alike. `matryoshka_dimensions`, unless empty, take the place of what the folder declares.
    """

    batch_tokens: int | None = None
    window: int = 128
    chunk_bytes: int = 256 * 1024
    warmup: bool = True
    cache_bytes: int = 0
    matryoshka_dimensions: tuple[int, ...] = ()


class _Parts(NamedTuple):
    """What exists while a model is loaded."""

    tokens: InputTokens
    dimensions: Dimensions


class EmbeddingEngine:
    """Serves one model folder."""

    def __init__(self, path: Path, limits: EmbeddingLimits) -> None:
        self._path = path
        self._limits = limits
        machine = profile()
        batches = Batches(limits.batch_tokens or machine.batch_tokens, limits.window)
        self._rows: Rows[TokenRow] = Rows(
            f"embeddings/{path.name}", batches, limits.chunk_bytes, limits.cache_bytes, machine.streams
        )
        self._loaded: Loaded[TokenRow, _Parts] = Loaded(self._rows)

    async def load(self) -> ModelFacts:
        """Load and, unless the limits say no, warm up.

        Raises `RefusedError` for a folder that cannot be served, `ModelFilesError` for one that should not be read,
        and `ValueError` for weights that do not fit it.
        """
        folder = read_folder(self._path)
        check_files(self._path)
        tokens = InputTokens(folder)
        offered = self._limits.matryoshka_dimensions or folder.matryoshka_dimensions

        def parts(model: VectorModel) -> _Parts:
            full, is_normalised = model.dimensions, folder.is_normalised
            return _Parts(tokens, Dimensions(full=full, offered=offered, is_normalised=is_normalised))

        model = await self._loaded.load(lambda: VectorModel(folder), parts, warm_up=self._limits.warmup)
        return facts_of(folder, model, model.dimensions)

    def pictures_of(self, request: EmbedRequest) -> tuple[ImagePart | VideoPart, ...]:
        """Return none: this model reads texts. Raises `RefusedError` if there is one."""
        without_pictures(inputs_of(request))
        return ()

    def prepare(self, request: EmbedRequest, _: Pictures = NO_PICTURES) -> EmbedWork:
        """Return `request` as tokens. Raises `RefusedError` for an input or a length that the model does not have.

        Costs about 0.4 ms per 1,000 characters. Changes nothing, so a caller with much text may use a thread.
        """
        tokens, dimensions = self._loaded.parts
        return tokens.work(request, asked_dimensions(request, dimensions))

    async def embed(self, work: EmbedWork) -> AsyncGenerator[EmbedChunk]:
        """Yield the vectors in the order of the inputs, a run of them per chunk, as soon as it has no gap.

        Closing the generator drops what has not been computed. Raises what the model raised.
        """
        dimensions = self._loaded.parts.dimensions
        lengths = [len(row.ids) for row in work.rows]
        async with aclosing(self._rows.run(work.rows, lengths, work.keys)) as runs:
            async for start, vectors in runs:
                end = start + len(vectors)
                yield EmbedChunk(
                    start=start,
                    vectors=tuple(cut(vector, work.dimensions, dimensions) for vector in vectors),
                    prompt_tokens=work.prompt_tokens if end == len(work.rows) else None,
                    truncated=tuple(number for number in work.truncated if start <= number < end),
                )

    async def ping(self) -> None:
        """Return when each engine thread has answered."""
        await self._rows.ping()

    async def unload(self) -> None:
        """Free the model and end its threads. Requests under way end with `RefusedError`."""
        await self._loaded.unload()
