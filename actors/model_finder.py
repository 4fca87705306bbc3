"""Finds models of the catalogue for an actor that has to know them often."""

import time

from bus.client import Bus
from bus.messages.catalogue import HEAVY
from bus.messages.models import GetModel, ListModels, ModelCard, ModelKind
from bus.subjects import GET_MODEL, LIST_MODELS

_FRESH = 1.0
_MOST = 1000


class ModelFinder:
    """Asks the models actor, and remembers its answer for a second."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._cards: dict[str, tuple[float, ModelCard]] = {}

    async def find(self, model: str) -> ModelCard:
        """Return the model. Raises `RefusedError`, or `LostError` when nobody knows."""
        now = time.monotonic()
        found = self._cards.get(model)
        if found is not None and now - found[0] < _FRESH:
            return found[1]
        card = await self._bus.ask(GET_MODEL(), GetModel(model=model))
        if len(self._cards) >= _MOST:
            self._cards.clear()
        self._cards[model] = now, card
        return card

    async def first(self, kind: ModelKind) -> ModelCard | None:
        """Return the first model of a kind, a warm one if there is any. Raises `LostError` when nobody knows."""
        models = (await self._bus.ask(LIST_MODELS(), ListModels())).models
        return min((card for card in models if card.kind == kind), key=lambda card: card.tier == HEAVY, default=None)
