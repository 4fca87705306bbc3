"""The embedding engine for texts and pictures: what many requests ask at once through one model.

Leaves the folder, the inputs and the mathematics to the pictures_… modules beside it, the order of work to rows.py.
"""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from actors.engines.contents import inputs_of, pictures_among
from actors.engines.embeddings import EmbeddingLimits
from actors.engines.embeddings_dimensions import Dimensions, asked_dimensions, cut
from actors.engines.engine import NO_PICTURES, ModelFacts, Pictures
from actors.engines.loaded import Loaded, facts_of
from actors.engines.pictures_folder import read_picture_folder
from actors.engines.pictures_frames import pooled
from actors.engines.pictures_input import Reader, Row, contents_of, key_of
from actors.engines.pictures_qwen import QwenModel
from actors.engines.pictures_qwen_input import QwenReader
from actors.engines.pictures_siglip import SiglipModel
from actors.engines.pictures_siglip_input import SiglipReader
from actors.engines.profile import profile
from actors.engines.rows import Rows
from actors.engines.rows_batch import Batches
from actors.model_files import check_files
from bus.messages.embeddings import EmbedChunk, EmbedRequest, FramePooling, ImagePart, VideoPart


class PictureWork(Struct, frozen=True, kw_only=True):
    """The rows of a request, and what tells them apart: as many for each input as `spans` says, one per frame.

    `truncated` are the numbers of the inputs that were shortened.
    """

    rows: tuple[Row, ...]
    keys: tuple[bytes, ...]
    spans: tuple[int, ...]
    truncated: tuple[int, ...]
    pooling: FramePooling
    dimensions: int


class _Parts(NamedTuple):
    """What exists while a model is loaded."""

    reader: Reader
    dimensions: Dimensions


class PictureEngine:
    """Serves one model folder."""

    def __init__(self, path: Path, limits: EmbeddingLimits) -> None:
        self._path = path
        self._limits = limits
        batches = Batches(limits.batch_tokens or profile().batch_tokens, limits.window)
        self._rows: Rows[Row] = Rows(f"embeddings/{path.name}", batches, limits.chunk_bytes, limits.cache_bytes)
        self._loaded: Loaded[Row, _Parts] = Loaded(self._rows)

    async def load(self) -> ModelFacts:
        """Load and, unless the limits say no, warm up.

        Raises `RefusedError` for a folder that cannot be served, `ModelFilesError` for one that should not be read,
        and `ValueError` for weights that do not fit it.
        """
        folder = read_picture_folder(self._path)
        check_files(self._path)
        is_siglip = folder.family == "siglip"
        reader: Reader = SiglipReader(folder) if is_siglip else QwenReader(folder)
        offered = self._limits.matryoshka_dimensions or folder.matryoshka_dimensions
        parts = _Parts(reader, Dimensions(full=folder.dimensions, offered=offered))

        def build() -> QwenModel | SiglipModel:
            return SiglipModel(folder) if is_siglip else QwenModel(folder)

        model = await self._loaded.load(build, lambda _: parts, warm_up=self._limits.warmup)
        return facts_of(folder, model, folder.dimensions)

    def pictures_of(self, request: EmbedRequest) -> tuple[ImagePart | VideoPart, ...]:
        """Return what has to be decoded for `request`. Raises `RefusedError` for what this model does not read."""
        reader, dimensions = self._loaded.parts
        asked_dimensions(request, dimensions)
        inputs = inputs_of(request)
        for number, item in enumerate(inputs):
            reader.check(number, item)
        return tuple(part for item in inputs for part in pictures_among(item))

    def prepare(self, request: EmbedRequest, pictures: Pictures = NO_PICTURES) -> PictureWork:
        """Return `request` as rows, with `pictures` in the size that the model sees.

        Raises `RefusedError` for an input or a length that the model does not have. A picture takes about 10 ms.
        Changes nothing, so a caller may use a thread.
        """
        reader, dimensions = self._loaded.parts
        rows: list[Row] = []
        spans, truncated = [], []
        for number, item in enumerate(inputs_of(request)):
            reader.check(number, item)
            contents = contents_of(item, pictures, request.frames.pooling)
            own = [reader.row(number, content, request) for content in contents]
            rows += own
            spans.append(len(own))
            if any(row.is_cut for row in own):
                truncated.append(number)
        return PictureWork(
            rows=tuple(rows),
            keys=tuple(key_of(row) for row in rows),
            spans=tuple(spans),
            truncated=tuple(truncated),
            pooling=request.frames.pooling,
            dimensions=asked_dimensions(request, dimensions),
        )

    async def embed(self, work: PictureWork) -> AsyncGenerator[EmbedChunk]:
        """Yield the vectors in the order of the inputs, a run of them per chunk, as soon as it has no gap.

        Closing the generator drops what has not been computed. Raises what the model raised.
        """
        dimensions = self._loaded.parts.dimensions
        number, waiting = 0, deque[bytes]()
        lengths = [row.length for row in work.rows]
        async with aclosing(self._rows.run(work.rows, lengths, work.keys)) as runs:
            async for _, vectors in runs:
                waiting += vectors
                whole: list[bytes] = []
                while number + len(whole) < len(work.spans) and len(waiting) >= work.spans[number + len(whole)]:
                    frames = [waiting.popleft() for _ in range(work.spans[number + len(whole)])]
                    whole.append(cut(pooled(frames, work.pooling), work.dimensions, dimensions))
                if whole or not vectors:
                    yield _chunk(work, number, whole)
                    number += len(whole)

    async def ping(self) -> None:
        """Return when the engine thread has answered."""
        await self._rows.ping()

    async def unload(self) -> None:
        """Free the model and end the thread. Requests under way end with `RefusedError`."""
        await self._loaded.unload()


def _chunk(work: PictureWork, start: int, vectors: list[bytes]) -> EmbedChunk:
    end = start + len(vectors)
    return EmbedChunk(
        start=start,
        vectors=tuple(vectors),
        prompt_tokens=sum(row.prompt_tokens for row in work.rows) if end == len(work.spans) else None,
        truncated=tuple(number for number in work.truncated if start <= number < end),
    )
