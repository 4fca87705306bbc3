"""The embeddings actor: keeps one embedding model loaded and turns texts and pictures into vectors with it.

Listens on  fusion.embed.<model>
Owns        one engine, from start to stop, and the children that decode pictures for it
Never       shortens a text that nobody said may be shortened
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Generic, TypeVar

from msgspec import Struct

from actors.engines.contents import pictures_by_place
from actors.engines.engine import EmbeddingsEngine
from actors.media import Media
from bus.messages.embeddings import EmbedChunk, EmbedRequest

WorkT = TypeVar("WorkT")


class Pictured(Struct, frozen=True):
    """A request whose pictures are not decoded yet."""

    request: EmbedRequest


class EmbeddingsActor(Generic[WorkT]):
    """Serves one model."""

    def __init__(self, engine: EmbeddingsEngine[WorkT], media: Media) -> None:
        self._engine = engine
        self._media = media

    async def prepare(self, request: EmbedRequest) -> WorkT | Pictured:
        """Return the request as tokens, on a thread: 2,000 abstracts take a second. Raises `RefusedError`.

        One with pictures stays as it is until its turn comes: decoding takes longer than an asker waits to be let in.
        """
        if self._engine.pictures_of(request):
            return Pictured(request)
        return await asyncio.to_thread(self._engine.prepare, request)

    async def receive(self, prepared: WorkT | Pictured) -> AsyncGenerator[EmbedChunk]:
        """Yield the vectors in the order of the inputs. Raises `RefusedError` for pictures that cannot be decoded."""
        work = await self._decoded(prepared.request) if isinstance(prepared, Pictured) else prepared
        async with aclosing(self._engine.embed(work)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _decoded(self, request: EmbedRequest) -> WorkT:
        async with self._media.decoded(pictures_by_place(request), request.frames.count) as pictures:
            return await asyncio.to_thread(self._engine.prepare, request, pictures)
