"""The rerank actor: keeps one reranker loaded and says with it how well documents answer a query.

Listens on  fusion.rerank.<model>
Owns        one engine, from start to stop
Never       shortens a document that nobody said may be shortened
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Generic, TypeVar

from actors.engines.engine import RerankEngine
from bus.messages.rerank import RerankChunk, RerankRequest

WorkT = TypeVar("WorkT")


class RerankActor(Generic[WorkT]):
    """Serves one model."""

    def __init__(self, engine: RerankEngine[WorkT]) -> None:
        self._engine = engine

    async def prepare(self, request: RerankRequest) -> WorkT:
        """Return the request as tokens, on a thread: 2,000 abstracts take a second. Raises `RefusedError`."""
        return await asyncio.to_thread(self._engine.prepare, request)

    async def receive(self, work: WorkT) -> AsyncGenerator[RerankChunk]:
        """Yield the scores in the order of the documents."""
        async with aclosing(self._engine.rerank(work)) as chunks:
            async for chunk in chunks:
                yield chunk
