"""What an embedding engine is asked, and what it says."""

import asyncio
from contextlib import aclosing

import numpy as np

from actors.engines.embeddings import EmbeddingEngine
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from tests.support.tiny_bert import Floats


async def chunks_of(engine: EmbeddingEngine, *inputs: str | tuple[int, ...]) -> list[EmbedChunk]:
    """Return the pieces of the answer."""
    work = engine.prepare(EmbedRequest(input=inputs, truncate=True))
    async with asyncio.timeout(240), aclosing(engine.embed(work)) as chunks:
        return [chunk async for chunk in chunks]


async def embed(engine: EmbeddingEngine, *inputs: str | tuple[int, ...]) -> Floats:
    """Return a row per input."""
    vectors = [vector for chunk in await chunks_of(engine, *inputs) for vector in chunk.vectors]
    return np.array([np.frombuffer(vector, "<f4") for vector in vectors])
