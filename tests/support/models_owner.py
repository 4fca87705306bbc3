"""Answers for the models actor where the edge is the point: it loads nothing, and keeps what it was ordered."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from bus.client import Bus
from bus.errors import RefusedError
from bus.messages.models import (
    CatalogueReloaded,
    GetModel,
    ListModels,
    LoadModel,
    ModelCard,
    ModelList,
    ModelProgress,
    ModelRemoved,
    ReloadCatalogue,
    RemoveModel,
    UnloadModel,
)
from bus.serve import Caller, Endpoint
from bus.subjects import GET_MODEL, LIST_MODELS, LOAD_MODEL, RELOAD_CATALOGUE, REMOVE_MODEL, UNLOAD_MODEL
from tests.support.stack import CARDS, living

ON_DISK = ModelCard(id="on/disk", kind="chat", tier=2, state="available", created=1)


class ModelsOwner:
    """The catalogue of `cards`. With `refusal` it refuses to load; loading waits at the gate in between."""

    def __init__(self, cards: tuple[ModelCard, ...], refusal: RefusedError | None = None) -> None:
        self.orders: list[Struct] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._cards = {card.id: card for card in cards}
        self._refusal = refusal

    async def list(self, request: ListModels, _: Caller) -> AsyncGenerator[ModelList]:
        more = (ON_DISK,) if request.available else ()
        yield ModelList(models=(*self._cards.values(), *more))

    async def get(self, request: GetModel, _: Caller) -> AsyncGenerator[ModelCard]:
        yield self._card(request.model)

    async def load(self, request: LoadModel, _: Caller) -> AsyncGenerator[ModelProgress]:
        self.orders.append(request)
        card = self._card(request.model)
        yield ModelProgress(model=card.id, state="loading", why="it was asked for", seconds=0.25)
        await self.gate.wait()
        if self._refusal:
            raise self._refusal
        yield ModelProgress(model=card.id, state="ready", seconds=2.5, done=True, card=replace(card, state="ready"))

    async def unload(self, request: UnloadModel, _: Caller) -> AsyncGenerator[ModelProgress]:
        self.orders.append(request)
        card = self._card(request.model)
        if card.tier < 2:
            raise RefusedError("conflict", f"The model {card.id!r} is warm and stays loaded.", param="model")
        yield ModelProgress(model=card.id, state="draining", why="it was asked for")
        freed = card.memory_bytes or 0
        yield ModelProgress(model=card.id, state="unloaded", seconds=0.5, done=True, freed_bytes=freed)

    async def reload(self, request: ReloadCatalogue, _: Caller) -> AsyncGenerator[CatalogueReloaded]:
        self.orders.append(request)
        yield CatalogueReloaded(added=("new",), changed=("same",), removed=("old",))

    async def remove(self, request: RemoveModel, _: Caller) -> AsyncGenerator[ModelRemoved]:
        self.orders.append(request)
        yield ModelRemoved(model=self._card(request.model).id)

    def endpoints(self) -> tuple[Endpoint[Any, Any], ...]:
        return (
            Endpoint(LIST_MODELS(), self.list),
            Endpoint(GET_MODEL(), self.get),
            Endpoint(LOAD_MODEL(), self.load),
            Endpoint(UNLOAD_MODEL(), self.unload),
            Endpoint(RELOAD_CATALOGUE(), self.reload),
            Endpoint(REMOVE_MODEL(), self.remove),
        )

    def _card(self, model: str) -> ModelCard:
        found = next((card for card in self._cards.values() if model in (card.id, *card.aliases)), None)
        if found is None:
            raise RefusedError("model_not_found", f"The model {model!r} does not exist.", param="model")
        return found


@asynccontextmanager
async def catalogue(
    bus: Bus, cards: tuple[ModelCard, ...] = CARDS, refusal: RefusedError | None = None
) -> AsyncGenerator[ModelsOwner]:
    """Answer for the models actor."""
    owner = ModelsOwner(cards, refusal)
    async with living(bus, "models", *owner.endpoints()):
        yield owner
