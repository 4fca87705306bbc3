"""Chat models that say what the test wants."""

from collections.abc import AsyncGenerator
from typing import Any

from actors.engines.echo import EchoEngine
from bus.messages.chat import ChatChunk, ChatRequest, Usage
from tests.support.stack import GatedEngine


class Says(EchoEngine):
    """Says these pieces, and keeps what it was asked; `error` comes after the first one."""

    def __init__(self, *pieces: str, context_length: int = 4096, error: Exception | None = None) -> None:
        super().__init__(context_length=context_length)
        self.pieces = pieces
        self.asked: list[ChatRequest] = []
        self._error = error

    def prepare(self, request: ChatRequest) -> Any:
        self.asked.append(request)
        return super().prepare(request)

    async def generate(self, _: Any) -> AsyncGenerator[ChatChunk]:
        for piece in self.pieces:
            yield ChatChunk(text=piece)
            if self._error:
                raise self._error
        yield ChatChunk(finish_reason="stop", usage=Usage(prompt_tokens=5, completion_tokens=len(self.pieces)))


class Gated(GatedEngine):
    """A model that waits in the middle of its answer."""

    def tokenize(self, request: Any) -> Any:
        return EchoEngine().tokenize(request)
