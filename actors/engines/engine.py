"""The protocols that engines implement: all that an actor knows of a model.

An engine touches mlx on one thread of its own. Its methods are called on the event loop and never block it.
"""

from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Protocol, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bus.frames import Prefill
from bus.messages.chat import ChatChunk, ChatRequest
from bus.messages.embeddings import EmbedChunk, EmbedRequest, ImagePart, VideoPart
from bus.messages.rerank import RerankChunk, RerankRequest
from bus.messages.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens

# By the name of its blob: an image is one picture, a video several. Each is height × width × 3 of RGB.
Pictures = Mapping[str, tuple[NDArray[np.uint8], ...]]
NO_PICTURES: Pictures = MappingProxyType({})


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What a loaded model says of itself. `context_length` is in tokens, `size_bytes` that of its weights.

    `profile` names what the machine is, where that decides how much is computed at once.
    """

    family: str
    context_length: int
    size_bytes: int
    dtype: str
    blas: str
    dimensions: int | None = None
    profile: str | None = None


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
    """A model that turns texts, and maybe pictures, into vectors."""

    async def load(self) -> ModelFacts:
        """Load and warm up."""
        ...

    def pictures_of(self, request: EmbedRequest) -> tuple[ImagePart | VideoPart, ...]:
        """Return what has to be decoded for `request`. Raises `RefusedError` for what this model does not read."""
        ...

    def prepare(self, request: EmbedRequest, pictures: Pictures = NO_PICTURES) -> WorkT:
        """Return `request` as the model reads it. Raises `RefusedError` if an input is empty or too long."""
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


class RerankEngine(Protocol[WorkT]):
    """A model that says how well documents answer a query."""

    async def load(self) -> ModelFacts:
        """Load and warm up."""
        ...

    def prepare(self, request: RerankRequest) -> WorkT:
        """Return `request` as tokens. Raises `RefusedError` if something is empty or too long."""
        ...

    def rerank(self, work: WorkT) -> AsyncGenerator[RerankChunk]:
        """Yield the scores in the order of the documents."""
        ...

    async def ping(self) -> None:
        """Return when the engine thread has answered."""
        ...

    async def unload(self) -> None:
        """Free the model and end the thread."""
        ...
