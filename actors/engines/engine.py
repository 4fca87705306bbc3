"""The protocols that engines implement: all that an actor knows of a model.

An engine touches mlx on one thread of its own. Its methods are called on the event loop and never block it.
"""

from collections.abc import AsyncGenerator
from typing import Protocol, TypeVar

from msgspec import Struct

from bus.frames import Prefill
from bus.messages.chat import ChatChunk, ChatRequest
from bus.messages.embeddings import EmbedChunk, EmbedRequest
from bus.messages.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What a loaded model says of itself. `context_length` is in tokens, `size_bytes` that of its weights."""

    family: str
    context_length: int
    size_bytes: int
    dtype: str
    blas: str
    dimensions: int | None = None


WorkT = TypeVar("WorkT")


class ChatEngine(Protocol[WorkT]):
    """A language model that continues many texts at once."""

    async def load(self) -> ModelFacts:
        """Load and warm up. Returning means that requests run at full speed."""
        ...

    def prepare(self, request: ChatRequest) -> WorkT:
        """Return `request` as tokens. Raises `RefusedError` if this model cannot honour it."""
        ...

    def generate(self, work: WorkT) -> AsyncGenerator[ChatChunk | Prefill]:
        """Yield the continuation, and before that how much of a long prompt was read.

        Closing the generator frees its place in the batch within a step.
        """
        ...

    def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return what `generate` would read. Raises `RefusedError` for what this model cannot read."""
        ...

    def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        """Return the text of tokens. Raises `RefusedError` for one that the model does not have."""
        ...

    async def ping(self) -> None:
        """Return when the engine thread has answered."""
        ...

    async def unload(self) -> None:
        """Free the model and end the thread. Unfinished generations end with `RefusedError`."""
        ...


class EmbeddingsEngine(Protocol[WorkT]):
    """A model that turns texts into vectors."""

    async def load(self) -> ModelFacts:
        """Load and warm up."""
        ...

    def prepare(self, request: EmbedRequest) -> WorkT:
        """Return `request` as tokens. Raises `RefusedError` if an input is empty or too long."""
        ...

    def embed(self, work: WorkT) -> AsyncGenerator[EmbedChunk]:
        """Yield the vectors in the order of the inputs."""
        ...

    async def ping(self) -> None:
        """Return when the engine thread has answered."""
        ...

    async def unload(self) -> None:
        """Free the model and end the thread."""
        ...
