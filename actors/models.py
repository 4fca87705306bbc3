"""The models actor: tells which models there are and how they stand.

Listens on  fusion.models.list, fusion.models.get
Owns        the catalogue
Never       loads a model itself
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import assert_never

from actors.supervisor import Child
from bus.client import Bus
from bus.errors import RefusedError
from bus.messages.catalogue import ModelEntry
from bus.messages.models import GetModel, ListModels, ModelCard, ModelList, ModelState
from bus.messages.presence import Heartbeat
from bus.presence import Presence
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.subjects import GET_MODEL, LIST_MODELS


class Models:
    """Answers for the catalogue."""

    def __init__(self, models: tuple[ModelEntry, ...], presence: Presence, created: int) -> None:
        self._entries = {entry.id: entry for entry in models}
        self._presence = presence
        self._created = created

    async def list(self, _request: ListModels, _: Caller) -> AsyncGenerator[ModelList]:
        """Answer with all models, in the order of the catalogue."""
        yield ModelList(models=tuple(map(self._card, self._entries.values())))

    async def get(self, request: GetModel, _: Caller) -> AsyncGenerator[ModelCard]:
        """Answer with one model."""
        entry = self._entries.get(request.model)
        if entry is None:
            raise RefusedError("model_not_found", f"The model '{request.model}' does not exist.", param="model")
        yield self._card(entry)

    def _card(self, entry: ModelEntry) -> ModelCard:
        beats = [beat for beat in self._presence.instances if beat.model == entry.id]
        best = next((beat for beat in beats if beat.state == "ready"), beats[0] if beats else None)
        detail = best.detail if best else {}
        return ModelCard(
            id=entry.id,
            kind=entry.kind,
            tier=entry.tier,
            state=_state(best),
            created=self._created,
            family=detail.get("family"),
            context_length=_number(detail.get("context_length")),
            dimensions=_number(detail.get("dimensions")),
            size_bytes=_number(detail.get("size_bytes")),
            dtype=detail.get("dtype"),
            tags=entry.tags,
            description=entry.description,
        )


def _state(beat: Heartbeat | None) -> ModelState:
    if beat is None:
        return "restarting"
    match beat.state:
        case "ready" | "stuck" | "draining" | "failed":
            return beat.state
        case "starting":
            return "loading"
        case "down" | "empty":
            return "restarting"
        case _:
            assert_never(beat.state)


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def child(bus: Bus, models: tuple[ModelEntry, ...], instance: str) -> Child:
    """Return what the supervisor needs to run this actor."""

    async def run() -> None:
        owner = Models(models, bus.presence, created=int(time.time()))
        info = ServiceInfo(name="fusion-models", instance=instance, description="The catalogue of models")
        async with serving(bus, info, Endpoint(LIST_MODELS(), owner.list), Endpoint(GET_MODEL(), owner.get)):
            await asyncio.Event().wait()

    return Child("models", run)
