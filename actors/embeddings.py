"""The embeddings actor: keeps one embedding model loaded and turns texts into vectors with it.

Listens on  fusion.embed.<model>
Owns        one engine, from start to stop
Never       shortens a text that nobody said may be shortened
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Generic, TypeVar

from actors.engines.engine import EmbeddingsEngine
from bus.messages.embeddings import EmbedChunk, EmbedRequest

WorkT = TypeVar("WorkT")


class EmbeddingsActor(Generic[WorkT]):
    """Serves one model."""

    def __init__(self, engine: EmbeddingsEngine[WorkT]) -> None:
        self._engine = engine

    async def prepare(self, request: EmbedRequest) -> WorkT:
        """Return the request as tokens, on a thread: 2,000 abstracts take a second. Raises `RefusedError`."""
        self._engine.pictures_of(request)
        return await asyncio.to_thread(self._engine.prepare, request)

    async def receive(self, work: WorkT) -> AsyncGenerator[EmbedChunk]:
        """Yield the vectors in the order of the inputs."""
        async with aclosing(self._engine.embed(work)) as chunks:
            async for chunk in chunks:
                yield chunk
