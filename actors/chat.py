"""The chat actor: keeps one language model loaded and continues conversations and texts with it.

Listens on  fusion.chat.<model>, fusion.complete.<model>, and beside its mailbox, because no batch is needed:
            fusion.tokenize.<model>, fusion.detokenize.<model>
Owns        one engine, from start to stop
Never       retries a generation, or trims a prompt to make it fit
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Generic, TypeVar

from actors.engines.engine import ChatEngine
from actors.engines.messages import text_of
from bus.frames import Prefill
from bus.messages.chat import ChatChunk, ChatRequest
from bus.messages.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens
from bus.serve import Caller

WorkT = TypeVar("WorkT")

# In characters or tokens: to read so many takes a few milliseconds, for which a thread is not worth its 0.4 ms.
_QUICK = 4096


class ChatActor(Generic[WorkT]):
    """Serves one model."""

    def __init__(self, engine: ChatEngine[WorkT]) -> None:
        self._engine = engine

    async def prepare(self, request: ChatRequest) -> WorkT:
        """Return the request as tokens. Raises `RefusedError`."""
        if _is_quick(request):
            return self._engine.prepare(request)
        return await asyncio.to_thread(self._engine.prepare, request)

    async def receive(self, work: WorkT) -> AsyncGenerator[ChatChunk | Prefill]:
        """Yield the continuation, and before that how much of a long prompt was read.

        Closing frees its place in the batch.
        """
        async with aclosing(self._engine.generate(work)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def tokenize(self, request: TokenizeRequest, _: Caller) -> AsyncGenerator[Tokens]:
        """Answer with the tokens that the model would read."""
        if _is_quick(request):
            yield self._engine.tokenize(request)
        else:
            yield await asyncio.to_thread(self._engine.tokenize, request)

    async def detokenize(self, request: DetokenizeRequest, _: Caller) -> AsyncGenerator[Detokenized]:
        """Answer with the text of tokens."""
        if len(request.tokens) <= _QUICK:
            yield self._engine.detokenize(request)
        else:
            yield await asyncio.to_thread(self._engine.detokenize, request)


def _is_quick(request: ChatRequest | TokenizeRequest) -> bool:
    """Return whether the event loop may wait for it: grammars and long texts take a while."""
    if request.tools or (isinstance(request, ChatRequest) and request.grammar is not None):
        return False
    return len(request.prompt or "") + sum(len(text_of(message)) for message in request.messages) <= _QUICK
