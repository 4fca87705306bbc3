"""Loads and unloads models, and changes the catalogue: under /v1/models, for heavy models."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Literal, get_args

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from bus.errors import RefusedError
from bus.messages.models import (
    LoadModel,
    ModelKind,
    ModelPriority,
    ModelProgress,
    ModelState,
    ReloadCatalogue,
    RemoveModel,
    UnloadModel,
)
from bus.subjects import LOAD_MODEL, RELOAD_CATALOGUE, REMOVE_MODEL, UNLOAD_MODEL
from http_edge.context import BUS
from http_edge.loading import done, relay
from http_edge.wire import ModelName, json_response, read_body, read_optional_body

# What mlx-openai-server calls a kind of model, and the lab before it.
_KINDS: dict[str, ModelKind] = {kind: kind for kind in get_args(ModelKind)} | {
    "lm": "chat",
    "multimodal": "vision",
    "image-generation": "image",
    "whisper": "transcription",
}

ModelType = ModelKind | Literal["lm", "multimodal", "image-generation", "whisper"]

# What is said of a model that is added; of others the catalogue says it.
_OF_ADDED = ("model_type", "context_length", "priority")

# What the models actor calls a field that it refuses, and what it is called here.
_NAMES = {"model": "model_id", "path": "model_path", "kind": "model_type"}

# As `MAX_VRAM_GB` counts.
_GB = 2**30

IdleSeconds = Annotated[float, Meta(ge=0)]


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model to load: one of the catalogue, or with a path one that is added to it. Null means not said."""

    model_path: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    model_type: ModelType | None = None
    model_id: ModelName | None = None
    context_length: Annotated[int, Meta(ge=1)] | None = None
    priority: ModelPriority | None = None
    ttl: IdleSeconds | None = None
    stream: bool | None = None


class NamedBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to load the model that the URL names. Null means not said."""

    ttl: IdleSeconds | None = None
    stream: bool | None = None


class UnloadBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to tell of unloading. Null means not said."""

    stream: bool | None = None


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """There is nothing to say."""


class Progress(Struct, frozen=True, kw_only=True):
    """How loading or unloading stands: the model's state, what it waits for, and the seconds since it was ordered."""

    model_id: str
    status: ModelState
    why: str
    seconds: float


class Metadata(Struct, frozen=True, kw_only=True):
    """What is known of a loaded model."""

    id: str
    family: str | None
    type: ModelKind
    context_length: int | None
    tags: tuple[str, ...]


class Loaded(Struct, frozen=True, kw_only=True):
    """The model answers. Null is not measured."""

    model_id: str
    status: Literal["loaded"] = "loaded"
    vram_usage_gb: float | None
    metadata: Metadata


class Unloaded(Struct, frozen=True, kw_only=True):
    """The model's memory is free."""

    model_id: str
    status: Literal["unloaded"] = "unloaded"
    vram_freed_gb: float


async def load(request: web.Request) -> web.StreamResponse:
    """Load a model, and answer when it is loaded. One that is loaded already is answered for at once."""
    body = await read_body(request, _body)
    _refuse_contradictions(body)
    order = LoadModel(
        model=body.model_id or "",
        path=body.model_path,
        kind=_KINDS[body.model_type] if body.model_type else None,
        context_length=body.context_length,
        priority=body.priority,
        ttl=body.ttl,
    )
    with _naming_fields():
        return await _load(request, order, body.stream)


async def load_named(request: web.Request) -> web.StreamResponse:
    """Load a model of the catalogue."""
    body = await read_optional_body(request, _named_body)
    return await _load(request, LoadModel(model=request.match_info["id"], ttl=body.ttl), body.stream)


async def unload(request: web.Request) -> web.StreamResponse:
    """Unload a heavy model when what runs on it is done. One that is not loaded is answered for at once."""
    body = await read_optional_body(request, _unload_body)
    order = UnloadModel(model=request.match_info["id"])
    if _wants_stream(request, body.stream):
        return await relay(request, UNLOAD_MODEL(), order, _told_unloading)
    return json_response(_told_unloading(await done(request, UNLOAD_MODEL(), order)))


async def reload(request: web.Request) -> web.StreamResponse:
    """Read the configured models again, without touching what runs."""
    await read_optional_body(request, _nothing)
    changes = await request.app[BUS].ask(RELOAD_CATALOGUE(), ReloadCatalogue())
    return json_response({"added": changes.added, "changed": changes.changed, "removed": changes.removed})


async def remove(request: web.Request) -> web.StreamResponse:
    """Take a model out of the catalogue that loading has added to it. Its files stay."""
    removed = await request.app[BUS].ask(REMOVE_MODEL(), RemoveModel(model=request.match_info["id"]))
    return json_response({"id": removed.model, "object": "model", "deleted": True})


async def _load(request: web.Request, order: LoadModel, stream: bool | None) -> web.StreamResponse:
    if _wants_stream(request, stream):
        return await relay(request, LOAD_MODEL(), order, _told_loading)
    return json_response(_told_loading(await done(request, LOAD_MODEL(), order)))


def _refuse_contradictions(body: Body) -> None:
    """Raise `RefusedError` if no model is named, or something is said that holds for an added one alone."""
    if body.model_path is not None:
        return
    if body.model_id is None:
        raise RefusedError("invalid_request", "Either 'model_id' or 'model_path' is needed.", param="model_id")
    for name in _OF_ADDED:
        if getattr(body, name) is not None:
            message = f"'{name}' is only allowed with 'model_path'; for other models the catalogue says it."
            raise RefusedError("invalid_request", message, param=name)


def _wants_stream(request: web.Request, said: bool | None) -> bool:
    return "text/event-stream" in request.headers.get("Accept", "") if said is None else said


def _told_loading(step: ModelProgress) -> Loaded | Progress:
    card = step.card
    if not step.done or card is None:
        return _told_step(step)
    return Loaded(
        model_id=card.id,
        vram_usage_gb=None if card.memory_bytes is None else round(card.memory_bytes / _GB, 3),
        metadata=Metadata(
            id=card.id, family=card.family, type=card.kind, context_length=card.context_length, tags=card.tags
        ),
    )


def _told_unloading(step: ModelProgress) -> Unloaded | Progress:
    if not step.done:
        return _told_step(step)
    return Unloaded(model_id=step.model, vram_freed_gb=round(step.freed_bytes / _GB, 3))


def _told_step(step: ModelProgress) -> Progress:
    return Progress(model_id=step.model, status=step.state, why=step.why, seconds=round(step.seconds, 3))


@contextmanager
def _naming_fields() -> Generator[None]:
    """Tell of what is refused by the name of the field that it comes from."""
    try:
        yield
    except RefusedError as error:
        ours = _NAMES.get(error.failure.param or "")
        if ours is None:
            raise
        raise RefusedError(error.code, str(error), param=ours) from error


_body = msgspec.json.Decoder(Body)
_named_body = msgspec.json.Decoder(NamedBody)
_unload_body = msgspec.json.Decoder(UnloadBody)
_nothing = msgspec.json.Decoder(Nothing)

# Before those of `models.py`, which take all that follows /v1/models/ for an id.
ROUTES = [
    web.post("/v1/models/load", load),
    web.post("/v1/models/reload", reload),
    web.post("/v1/models/{id:.+}/load", load_named),
    web.post("/v1/models/{id:.+}/unload", unload),
    web.delete("/v1/models/{id:.+}/unload", unload),
    web.delete("/v1/models/{id:.+}", remove),
]
