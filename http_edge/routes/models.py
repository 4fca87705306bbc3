"""GET /v1/models and /v1/models/{id}: OpenAI's four fields, and what Tier 2 discovers models by."""

from aiohttp import web
from msgspec import Struct

from bus.messages.models import GetModel, ListModels, ModelCard, ModelKind, ModelPriority, ModelState
from bus.subjects import GET_MODEL, LIST_MODELS
from http_edge.context import BUS
from http_edge.wire import json_response, read_query


class Listing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether to list what lies on this machine too."""

    available: bool = False


class Model(Struct, frozen=True, kw_only=True):
    """One model; null is not known. `max_model_len` is vLLM's word for the context length; clients look for either."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "local-mlx"
    type: ModelKind
    family: str | None
    description: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    modalities: tuple[str, ...]
    capabilities: tuple[str, ...]
    context_length: int | None
    max_model_len: int | None
    dimensions: int | None
    parameters: int | None
    quantization: str | None
    dtype: str | None
    size_bytes: int | None
    estimated_bytes: int | None
    memory_bytes: int | None
    tier: int
    state: ModelState
    error: str | None
    pinned: bool
    priority: ModelPriority
    ttl_seconds: float | None
    leases: int
    expires_at: float | None


class Models(Struct, frozen=True, kw_only=True):
    """All models."""

    object: str = "list"
    data: tuple[Model, ...]


async def list_all(request: web.Request) -> web.StreamResponse:
    """List the catalogue, and if that is wanted what else lies on this machine."""
    listing = read_query(request, Listing)
    reply = await request.app[BUS].ask(LIST_MODELS(), ListModels(available=listing.available))
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
        aliases=card.aliases,
        tags=card.tags,
        modalities=card.modalities,
        capabilities=card.capabilities,
        context_length=card.context_length,
        max_model_len=card.context_length,
        dimensions=card.dimensions,
        parameters=card.parameters,
        quantization=card.quantisation,
        dtype=card.dtype,
        size_bytes=card.size_bytes,
        estimated_bytes=card.estimated_bytes,
        memory_bytes=card.memory_bytes,
        tier=card.tier,
        state=card.state,
        error=card.error,
        pinned=card.pinned,
        priority=card.priority,
        ttl_seconds=card.ttl,
        leases=card.leases,
        expires_at=card.expires_at,
    )


ROUTES = [web.get("/v1/models", list_all), web.get("/v1/models/{id:.+}", retrieve)]
