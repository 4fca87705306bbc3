"""Whether it lives, whether it can work, and how busy it is: from the heartbeats, and the catalogue."""

from aiohttp import web
from msgspec import Struct

from bus.client import Bus
from bus.errors import BusError
from bus.messages.catalogue import HEAVY
from bus.messages.models import ListModels, ModelCard, ModelState
from bus.subjects import LIST_MODELS
from http_edge.context import BUS
from http_edge.wire import json_response

_OWNERS = ("core", "historian")


class Readiness(Struct, frozen=True, kw_only=True):
    """Whether requests and jobs can be answered, and if not, why."""

    status: str
    reasons: tuple[str, ...]


class ModelHealth(Struct, frozen=True, kw_only=True):
    """How one model stands, and what its instance says of the way it computes."""

    id: str
    state: ModelState
    dtype: str | None
    blas: str | None


class Health(Struct, frozen=True, kw_only=True):
    """The shape that Tier 2 gates on."""

    status: str
    model_id: str | None
    model_status: str
    models_healthy: bool
    warmup_enabled: bool
    warmup_completed: bool
    models: tuple[ModelHealth, ...]


class QueueLoad(Struct, kw_only=True):
    """Requests waiting and running, and how many may."""

    queue_size: int = 0
    max_queue_size: int = 0
    active_requests: int = 0
    max_concurrency: int = 0


async def index(_: web.Request) -> web.StreamResponse:
    """Name the main endpoints."""
    return json_response({"name": "fusion", "endpoints": _ENDPOINTS})


async def livez(_: web.Request) -> web.StreamResponse:
    """Say that this process answers."""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.StreamResponse:
    """Say whether all that must be there is there."""
    reasons = await _missing(request.app[BUS])
    readiness = Readiness(status="not_ready" if reasons else "ready", reasons=tuple(reasons))
    return json_response(readiness, 503 if reasons else 200)


async def health(request: web.Request) -> web.StreamResponse:
    """Say how the models stand, in the shape Tier 2 knows."""
    bus = request.app[BUS]
    cards = await _catalogue(bus) or ()
    first = next((card for card in (*_warm(cards), *cards) if card.kind == "chat"), None)
    is_warm = bool(cards) and all(card.state == "ready" for card in _warm(cards))
    has_warmup = all(beat.detail.get("warmup") != "off" for beat in bus.presence.instances)
    report = Health(
        status="ok" if is_warm else "unhealthy",
        model_id=first.id if first else None,
        model_status="initialized" if first and first.state == "ready" else "uninitialized",
        models_healthy=is_warm,
        warmup_enabled=has_warmup,
        warmup_completed=is_warm and has_warmup,
        models=_each_health(bus, cards),
    )
    return json_response(report, 200 if is_warm else 503)


async def queue_stats(request: web.Request) -> web.StreamResponse:
    """Sum up the mailboxes of all model instances, and those of each model."""
    total, models = QueueLoad(), dict[str, QueueLoad]()
    for beat in request.app[BUS].presence.instances:
        if beat.model is None:
            continue
        for load in (total, models.setdefault(beat.model, QueueLoad())):
            load.queue_size += beat.load.queued
            load.max_queue_size += beat.load.max_queue
            load.active_requests += beat.load.running
            load.max_concurrency += beat.load.concurrency
    return json_response({**{name: getattr(total, name) for name in total.__struct_fields__}, "models": models})


async def _catalogue(bus: Bus) -> tuple[ModelCard, ...] | None:
    try:
        return (await bus.ask(LIST_MODELS(), ListModels(), patience=1.0)).models
    except BusError:
        return None


async def _missing(bus: Bus) -> list[str]:
    ready = {beat.role for beat in bus.presence.instances if beat.state == "ready"}
    reasons = [f"The {role} process is not ready." for role in _OWNERS if role not in ready]
    cards = await _catalogue(bus)
    if cards is None:
        return [*reasons, "The models actor does not answer."]
    return reasons + [f"The model {card.id} is {card.state}." for card in _warm(cards) if card.state != "ready"]


def _warm(cards: tuple[ModelCard, ...]) -> list[ModelCard]:
    return [card for card in cards if card.tier < HEAVY]


def _each_health(bus: Bus, cards: tuple[ModelCard, ...]) -> tuple[ModelHealth, ...]:
    details = {beat.model: beat.detail for beat in bus.presence.instances}
    return tuple(
        ModelHealth(
            id=card.id,
            state=card.state,
            dtype=details.get(card.id, {}).get("dtype", card.dtype),
            blas=details.get(card.id, {}).get("blas"),
        )
        for card in cards
    )


_ENDPOINTS = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/responses",
    "POST /v1/embeddings",
    "POST /v1/rerank",
    "GET /v1/models",
    "POST /v1/models/load",
    "DELETE /v1/models/{id}/unload",
    "POST /v1/jobs",
    "POST /api/rag/ingest",
    "POST /api/rag/query",
    "GET /v1/queue/stats",
    "GET /health",
    "GET /readyz",
    "GET /livez",
)

ROUTES = [
    web.get("/", index),
    web.get("/livez", livez),
    web.get("/readyz", readyz),
    web.get("/health", health),
    web.get("/v1/queue/stats", queue_stats),
]
