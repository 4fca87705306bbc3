"""The scores of a reranker: from the pieces of its answer to the best documents."""

from collections.abc import AsyncIterable, Sequence
from itertools import accumulate

from msgspec import Struct

from bus.frames import Status
from bus.messages.rerank import RerankChunk


class Ranked(Struct, frozen=True, kw_only=True):
    """One document by its number, and its score."""

    index: int
    relevance_score: float


class Scored(Struct, frozen=True, kw_only=True):
    """A score for each document, the tokens read, and the numbers of the documents that were shortened."""

    scores: tuple[float, ...]
    prompt_tokens: int
    truncated: tuple[int, ...]


class Ranking(Struct, frozen=True, kw_only=True):
    """The best documents first, the tokens read, and the numbers of the documents that were shortened."""

    results: tuple[Ranked, ...]
    prompt_tokens: int
    truncated: tuple[int, ...]


async def all_scores(answer: AsyncIterable[RerankChunk | Status]) -> Scored:
    """Wait for all of `answer`. Raises as it does."""
    chunks = [item async for item in answer if not isinstance(item, Status)]
    return Scored(
        scores=tuple(score for chunk in chunks for score in chunk.scores),
        prompt_tokens=sum(chunk.prompt_tokens or 0 for chunk in chunks),
        truncated=tuple(number for chunk in chunks for number in chunk.truncated),
    )


def ranking(parts: Sequence[Scored]) -> Ranking:
    """Return the documents, of which each part has the next ones, by their scores; equal ones stay in their order."""
    scores = (score for part in parts for score in part.scores)
    ranked = [Ranked(index=index, relevance_score=score) for index, score in enumerate(scores)]
    starts = accumulate((len(part.scores) for part in parts[:-1]), initial=0)
    return Ranking(
        results=tuple(sorted(ranked, key=lambda each: -each.relevance_score)),
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        truncated=tuple(start + number for start, part in zip(starts, parts, strict=True) for number in part.truncated),
    )
