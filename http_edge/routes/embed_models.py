"""GET /embed/models: the models for /embed/* and /v1/rerank, and what they run on."""

from importlib import metadata

from aiohttp import web
from msgspec import Struct

from bus.messages.models import ListModels, ModelCard, ModelKind, ModelState
from bus.subjects import LIST_MODELS
from http_edge.context import BUS
from http_edge.wire import json_response

_KINDS: tuple[ModelKind, ...] = ("embeddings", "rerank")


class Framework(Struct, frozen=True, kw_only=True):
    """What models run in."""

    name: str = "MLX"
    version: str


class EmbedModel(Struct, frozen=True, kw_only=True):
    """One model; null is not known, as of one that is not loaded. Times are in seconds, a GB has 10⁹ bytes."""

    id: str
    type: ModelKind
    model_path: str
    state: ModelState
    framework: Framework
    quantization: str | None
    dtype: str | None
    blas: str | None
    hardware_profile: str | None
    embedding_dim: int | None
    is_matryoshka: bool
    matryoshka_dimensions: tuple[int, ...]
    supported_modalities: tuple[str, ...]
    max_tokens: int | None
    load_time: float | None
    memory_usage_gb: float | None


class EmbedModels(Struct, frozen=True, kw_only=True):
    """All of them, in the order of the catalogue."""

    models: tuple[EmbedModel, ...]


async def list_all(request: web.Request) -> web.StreamResponse:
    """List the models that make vectors or scores."""
    cards = (await request.app[BUS].ask(LIST_MODELS(), ListModels())).models
    framework = Framework(version=metadata.version("mlx"))
    return json_response(EmbedModels(models=tuple(_told(card, framework) for card in cards if card.kind in _KINDS)))


def _told(card: ModelCard, framework: Framework) -> EmbedModel:
    return EmbedModel(
        id=card.id,
        type=card.kind,
        model_path=card.path,
        state=card.state,
        framework=framework,
        quantization=card.quantisation,
        dtype=card.dtype,
        blas=card.blas,
        hardware_profile=card.profile,
        embedding_dim=card.dimensions,
        is_matryoshka=card.is_matryoshka,
        matryoshka_dimensions=card.matryoshka_dimensions,
        supported_modalities=card.modalities,
        max_tokens=card.context_length,
        load_time=card.load_seconds,
        memory_usage_gb=None if card.memory_bytes is None else round(card.memory_bytes / 1e9, 3),
    )


ROUTES = [web.get("/embed/models", list_all)]
