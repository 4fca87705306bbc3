"""Finds models of the catalogue for an actor that has to know them often."""

import time

from bus.client import Bus
from bus.messages.models import GetModel, ModelCard
from bus.subjects import GET_MODEL

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
