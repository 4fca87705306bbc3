"""The reranking engine: documents of many requests at once through one cross-encoder or generative reranker.

Leaves the folder, the tokens and the mathematics to the rerank_… modules beside it, the order of work to rows.py.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from msgspec import Struct

from actors.engines.blas import prepare_blas
from actors.engines.engine import ModelFacts
from actors.engines.profile import profile
from actors.engines.rerank_folder import RerankFolder, read_rerank_folder
from actors.engines.rerank_model import CrossEncoder, ScoreModel, YesOrNo, score_of
from actors.engines.rerank_tokens import PairTokens, PromptTokens, RerankTokens, RerankWork, Row
from actors.engines.rows import Rows, not_loaded
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
        self._tokens: RerankTokens | None = None

    async def load(self) -> ModelFacts:
        """Load and, unless the limits say no, warm up.

        Raises `RefusedError` for a folder that cannot be served, `ModelFilesError` for one that should not be read,
        and `ValueError` for weights that do not fit it.
        """
        folder = read_rerank_folder(self._path)
        check_files(self._path)
        if folder.is_generative:
            prompts = PromptTokens(folder)
            self._tokens = prompts
            model = await self._load(lambda: ScoreModel(folder, YesOrNo(folder, prompts.answers)))
        else:
            self._tokens = PairTokens(folder)
            model = await self._load(lambda: ScoreModel(folder, CrossEncoder(folder)))
        return _facts(folder, model)

    def prepare(self, request: RerankRequest) -> RerankWork:
        """Return `request` as tokens. Raises `RefusedError` if something is empty or too long.

        Costs about 0.4 ms per 1,000 characters. Changes nothing, so a caller with much text may use a thread.
        """
        if self._tokens is None:
            raise not_loaded()
        return self._tokens.work(request)

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
        self._tokens = None
        await self._rows.unload()

    async def _load(self, build: Callable[[], ScoreModel]) -> ScoreModel:
        return await self._rows.load(build, warm_up=self._is_warmed_up)


def _facts(folder: RerankFolder, model: ScoreModel) -> ModelFacts:
    return ModelFacts(
        family=folder.family,
        context_length=folder.max_tokens,
        size_bytes=model.size_bytes,
        dtype=model.dtype,
        blas=prepare_blas(),
        profile=profile().name,
    )
