"""The reranking engine: documents of many requests at once through one cross-encoder or generative reranker.

Leaves the folder, the tokens and the mathematics to the rerank_… modules beside it, the order of work to rows.py.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from msgspec import Struct

from actors.engines.engine import ModelFacts
from actors.engines.loaded import Loaded, facts_of
from actors.engines.profile import profile
from actors.engines.rerank_folder import read_rerank_folder
from actors.engines.rerank_model import CrossEncoder, ScoreModel, YesOrNo, score_of
from actors.engines.rerank_tokens import PairTokens, PromptTokens, RerankTokens, RerankWork, Row
from actors.engines.rows import Rows
from actors.engines.rows_batch import Batches
from actors.model_files import check_files
from bus.messages.rerank import RerankChunk, RerankRequest


class RerankLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much goes through the model, and onto the bus, at a time.

    `batch_tokens` counts padding; unsaid it is that of embeddings. `chunk_bytes` are 8 for each score.
    """

    batch_tokens: int | None = None
    window: int = 128
    chunk_bytes: int = 64 * 1024
    warmup: bool = True


class RerankerEngine:
    """Serves one model folder."""

    def __init__(self, path: Path, limits: RerankLimits) -> None:
        self._path = path
        self._is_warmed_up = limits.warmup
        machine = profile()
        batches = Batches(limits.batch_tokens or machine.batch_tokens, limits.window)
        self._rows: Rows[Row] = Rows(f"rerank/{path.name}", batches, limits.chunk_bytes, streams=machine.streams)
        self._loaded: Loaded[Row, RerankTokens] = Loaded(self._rows)

    async def load(self) -> ModelFacts:
        """Load and, unless the limits say no, warm up.

        Raises `RefusedError` for a folder that cannot be served, `ModelFilesError` for one that should not be read,
        and `ValueError` for weights that do not fit it.
        """
        folder = read_rerank_folder(self._path)
        check_files(self._path)
        tokens = PromptTokens(folder) if folder.is_generative else PairTokens(folder)

        def build() -> ScoreModel:
            if isinstance(tokens, PromptTokens):
                return ScoreModel(folder, YesOrNo(folder, tokens.answers))
            return ScoreModel(folder, CrossEncoder(folder))

        return facts_of(folder, await self._loaded.load(build, lambda _: tokens, warm_up=self._is_warmed_up))

    def prepare(self, request: RerankRequest) -> RerankWork:
        """Return `request` as tokens. Raises `RefusedError` if something is empty or too long.

        Costs about 0.4 ms per 1,000 characters. Changes nothing, so a caller with much text may use a thread.
        """
        return self._loaded.parts.work(request)

    async def rerank(self, work: RerankWork) -> AsyncGenerator[RerankChunk]:
        """Yield the scores in the order of the documents, a run of them per chunk, as soon as it has no gap.

        Closing the generator drops what has not been computed. Raises what the model raised.
        """
        lengths = [len(row.tokens) for row in work.rows]
        async with aclosing(self._rows.run(work.rows, lengths)) as runs:
            async for start, results in runs:
                end = start + len(results)
                yield RerankChunk(
                    start=start,
                    scores=tuple(map(score_of, results)),
                    prompt_tokens=sum(lengths) if end == len(lengths) else None,
                    truncated=tuple(number for number in work.truncated if start <= number < end),
                )

    async def ping(self) -> None:
        """Return when each engine thread has answered."""
        await self._rows.ping()

    async def unload(self) -> None:
        """Free the model and end its threads. Requests under way end with `RefusedError`."""
        await self._loaded.unload()
