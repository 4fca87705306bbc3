"""The rerankers as RAG uses them: asked over the bus like by anyone."""

from collections.abc import Sequence

from actors.model_finder import ModelFinder
from bus.client import Bus
from bus.errors import LostError, RefusedError
from bus.messages.rerank import RerankRequest
from bus.portions import portions
from bus.scores import Ranked, Scored, all_scores, ranking
from bus.subjects import RERANK


class Rerankers:
    """All rerankers."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._finder = ModelFinder(bus)

    async def find(self, model: str) -> str:
        """Return the id of the model. Raises `RefusedError` ("rerank_model") unless it is a reranker."""
        try:
            card = await self._finder.find(model)
        except RefusedError as error:
            raise RefusedError(error.code, error.failure.message, param="rerank_model") from error
        except LostError:
            return model  # Nobody knows; it is seen when it is asked.
        if card.kind != "rerank":
            message = f"The model '{card.id}' is for {card.kind}, and does not rerank."
            raise RefusedError("invalid_request", message, param="rerank_model")
        return card.id

    async def order(self, model: str, query: str, texts: Sequence[str], key: str | None) -> tuple[Ranked, ...]:
        """Return the texts by how well they answer the query, the best first. Raises `BusError`.

        What is too long is read as far as that goes. `key` is the fingerprint of the API key.
        """
        scored: list[Scored] = []
        for portion in portions(texts, lambda _: len(query)):
            request = RerankRequest(query=query, documents=portion, truncate=True)
            async with self._bus.stream(RERANK(model), request, key=key) as answer:
                scored.append(await all_scores(answer))
            if len(scored[-1].scores) != len(portion):
                message = f"{len(scored[-1].scores)} scores came for {len(portion)} texts."
                raise LostError("stream_broken", message)
        return ranking(scored).results
