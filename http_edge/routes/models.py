"""GET /v1/models and /v1/models/{id}: OpenAI's four fields, and what Tier 2 discovers models by."""

from aiohttp import web
from msgspec import Struct

from bus.messages.models import GetModel, ListModels, ModelCard, ModelKind, ModelState
from bus.subjects import GET_MODEL, LIST_MODELS
from http_edge.context import BUS
from http_edge.wire import json_response


class Model(Struct, frozen=True, kw_only=True):
    """One model. `max_model_len` is vLLM's word for the context length; clients look for either."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "local-mlx"
    type: ModelKind
    family: str | None
    description: str
    context_length: int | None
    max_model_len: int | None
    dimensions: int | None
    tier: int
    state: ModelState
    memory_bytes: int | None
    dtype: str | None
    tags: tuple[str, ...]


class Models(Struct, frozen=True, kw_only=True):
    """All models."""

    object: str = "list"
    data: tuple[Model, ...]


async def list_all(request: web.Request) -> web.StreamResponse:
    """List the catalogue."""
    reply = await request.app[BUS].ask(LIST_MODELS(), ListModels())
    return json_response(Models(data=tuple(_model(card) for card in reply.models)))


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Tell about one model; its id may contain slashes, as they are or as %2F."""
    card = await request.app[BUS].ask(GET_MODEL(), GetModel(model=request.match_info["id"]))
    return json_response(_model(card))


def _model(card: ModelCard) -> Model:
    return Model(
        id=card.id,
        created=card.created,
        type=card.kind,
        family=card.family,
        description=card.description,
        context_length=card.context_length,
        max_model_len=card.context_length,
        dimensions=card.dimensions,
        tier=card.tier,
        state=card.state,
        memory_bytes=card.size_bytes,
        dtype=card.dtype,
        tags=card.tags,
    )


ROUTES = [web.get("/v1/models", list_all), web.get("/v1/models/{id:.+}", retrieve)]
