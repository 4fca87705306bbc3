"""The embedding models as RAG uses them: how long a text may be, its tokens, and its vector.

Leaves the vectors themselves to the models' actors, which are asked over the bus like by anyone.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from tokenizers import Tokenizer

from actors.catalogue import ModelFilesError, conversion, local_path
from actors.engines.embeddings_folder import read_folder
from actors.model_finder import ModelFinder
from actors.rag.chunk_tokens import load
from bus.client import Bus
from bus.errors import BusError, LostError, RefusedError
from bus.frames import Status
from bus.messages.embeddings import EmbedRequest
from bus.messages.models import ModelCard
from bus.portions import portions
from bus.subjects import EMBED

# As sentence-transformers looks for them in `encode_document` and `encode_query`.
_FOR_DOCUMENTS = ("document", "passage", "corpus")
_FOR_QUERIES = ("query",)

# So long an answer is tried again that may be had later, in seconds.
_PATIENCE = 60.0
_PAUSE = 0.5

# Refusals that another try may not meet.
PASSING = frozenset(("queue_full", "queue_timeout", "cancelled", "insufficient_memory"))

Vectors = NDArray[np.float32]

# Hears how many of the texts have their vectors.
OnEmbedded = Callable[[int], None]


class Embedder(Struct, frozen=True, kw_only=True):
    """An embedding model. A text may have `most_tokens`, beside special ones and the prompt."""

    model: str
    dimensions: int
    most_tokens: int
    tokenizer: Tokenizer
    document_prompt: str | None = None
    query_prompt: str | None = None


class Embedded(NamedTuple):
    """A row of norm 1 for each text, and the numbers of the texts of which the end was not read."""

    vectors: Vectors
    truncated: frozenset[int]


class Embedders:
    """All embedding models. `default` is for who names none; unless it is given, the first warm one."""

    def __init__(self, bus: Bus, default: str | None) -> None:
        self._bus = bus
        self._default = default
        self._finder = ModelFinder(bus)
        self._known: dict[tuple[str, str, int | None], Embedder] = {}

    async def find(self, model: str | None = None) -> Embedder:
        """Return the model. Raises `RefusedError` ("embedding_model"), and `LostError` when nobody knows it."""
        card = await self._card(model or self._default or await self._first_warm())
        key = (card.id, card.path, card.dimensions)
        if key not in self._known:
            self._known[key] = await self._read(card)
        return self._known[key]

    async def documents(
        self, embedder: Embedder, texts: Sequence[str], key: str | None, on_embedded: OnEmbedded
    ) -> Embedded:
        """Return the vectors of texts of documents, asked for in portions, again and again while that may help.

        Raises `RefusedError` for texts that have no vector, and `LostError`. `key` is the fingerprint of the API key.
        """
        rows: list[Vectors] = []
        truncated: set[int] = set()
        for portion in portions(texts, lambda _: 0):
            first = sum(map(len, rows))
            some = await self._patiently(embedder, portion, key, _behind(first, on_embedded))
            rows.append(some.vectors)
            truncated |= {first + number for number in some.truncated}
        return Embedded(np.concatenate(rows), frozenset(truncated))

    async def query(self, embedder: Embedder, text: str, key: str | None) -> Vectors:
        """Return the vector of a query, of norm 1. Raises `BusError`; what is too long is read as far as that goes."""
        some = await self._ask(embedder.model, (text,), embedder.query_prompt, key)
        return np.asarray(some.vectors[0])

    async def _first_warm(self) -> str:
        card = await self._finder.first("embeddings")
        if card is None:
            message = "There is no embedding model; without one documents cannot be stored."
            raise RefusedError("model_not_found", message, param="embedding_model")
        return card.id

    async def _card(self, model: str) -> ModelCard:
        try:
            card = await self._finder.find(model)
        except RefusedError as error:
            raise RefusedError(error.code, error.failure.message, param="embedding_model") from error
        if card.kind != "embeddings":
            raise _refusal(f"The model '{model}' is for {card.kind}, not for embeddings.")
        return card

    async def _read(self, card: ModelCard) -> Embedder:
        if card.context_length is None:
            raise _refusal(f"Of the model '{card.id}' it is not known how many tokens it reads.")
        tokenizer, prompts = await asyncio.to_thread(_files, card)
        document = next((name for name in _FOR_DOCUMENTS if name in prompts), None)
        query = next((name for name in _FOR_QUERIES if name in prompts), None)
        beside = tokenizer.num_special_tokens_to_add(is_pair=False)
        if document is not None:
            beside += len(tokenizer.encode(prompts[document], add_special_tokens=False).ids)
        dimensions = card.dimensions
        if dimensions is None:
            dimensions = (await self._ask(card.id, ("a",), None, None)).vectors.shape[1]
        return Embedder(
            model=card.id,
            dimensions=dimensions,
            most_tokens=card.context_length - beside,
            tokenizer=tokenizer,
            document_prompt=document,
            query_prompt=query,
        )

    async def _patiently(
        self, embedder: Embedder, texts: tuple[str, ...], key: str | None, on_embedded: OnEmbedded
    ) -> Embedded:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return await self._ask(embedder.model, texts, embedder.document_prompt, key, on_embedded)
            except BusError as error:
                may_pass = isinstance(error, LostError) or error.code in PASSING
                if not may_pass or time.monotonic() > until:
                    raise
                await asyncio.sleep(error.failure.retry_after or _PAUSE)

    async def _ask(
        self,
        model: str,
        texts: tuple[str, ...],
        prompt: str | None,
        key: str | None,
        on_embedded: OnEmbedded = lambda _: None,
    ) -> Embedded:
        vectors: list[bytes] = []
        truncated: set[int] = set()
        request = EmbedRequest(input=texts, truncate=True, prompt_name=prompt)
        async with self._bus.stream(EMBED(model), request, key=key) as answer:
            async for item in answer:
                if not isinstance(item, Status):
                    vectors += item.vectors
                    truncated |= set(item.truncated)
                    on_embedded(len(vectors))
        if len(vectors) != len(texts):
            raise LostError("stream_broken", f"{len(vectors)} vectors came for {len(texts)} texts.")
        rows = np.frombuffer(b"".join(vectors), "<f4").reshape(len(texts), -1)
        return Embedded(normalised(rows), frozenset(truncated))


def _behind(first: int, on_embedded: OnEmbedded) -> OnEmbedded:
    """Return what hears of those behind the `first` ones."""
    return lambda done: on_embedded(first + done)


def normalised(rows: NDArray[np.floating]) -> Vectors:
    """Return `rows` with norm 1. Raises `RefusedError` for one that has no direction."""
    wide = rows.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if wrong.size:
        raise RefusedError("invalid_request", f"Vector {wrong[0]} has no direction: it is 0, or not a number.")
    return np.asarray(wide / norms, np.float32)


def _files(card: ModelCard) -> tuple[Tokenizer, Mapping[str, str]]:
    """Return the tokenizer of a model, and its prompts by their names. Raises `RefusedError`."""
    try:
        folder = local_path(card.path)
        converted = conversion(folder) if folder is not None else None
    except ModelFilesError as error:
        raise _refusal(str(error)) from error
    folder = converted if converted is not None and converted.is_dir() else folder
    if folder is None or not (folder / "tokenizer.json").is_file():
        raise _refusal(f"The tokenizer of the model '{card.id}' is not on this machine.")
    return load(folder), _prompts(folder)


def _prompts(folder: Path) -> Mapping[str, str]:
    try:
        return read_folder(folder).prompts
    except RefusedError:  # A model for pictures too, which has none.
        return {}


def _refusal(message: str) -> RefusedError:
    return RefusedError("invalid_request", message, param="embedding_model")
