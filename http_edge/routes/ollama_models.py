"""GET /api/tags, GET /api/ps, POST /api/show and GET /api/version: the catalogue as Ollama's clients read it."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from bus.messages.models import GetModel, ListModels, ModelCard
from bus.subjects import GET_MODEL, LIST_MODELS
from http_edge.context import BUS
from http_edge.generation import refuse_unsupported
from http_edge.ollama import model_name
from http_edge.wire import ModelName, json_response, read_body

# The version of Ollama whose API this is: clients look at it to learn what they may send.
_VERSION = "0.12.11"

# Accepted and left out, because the answer is the same without it.
IGNORED = {"verbose": "all of the tokenizer and of the tensors, which are not told"}

# Not implemented: refused, unless they say what happens anyway. `name` is the old name of `model`.
NEUTRAL: dict[str, tuple[object, ...]] = {"name": ("",), "system": ("",), "template": ("",), "options": ({},)}

# When a model is unloaded that stays loaded: Ollama tells it by a time far away.
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)

_LOADED = frozenset(("ready", "stuck", "draining"))

# Ollama's words, and what of them a kind of model has whose files are not known.
_CAPABILITIES = ("completion", "tools", "thinking", "vision", "embedding")
_OF_KIND: dict[str, tuple[str, ...]] = {
    "chat": ("completion",),
    "vision": ("completion", "vision"),
    "embeddings": ("embedding",),
}

_SIZES = ((1e9, "B"), (1e6, "M"), (1e3, "K"))


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model to tell about: what is implemented, then `NEUTRAL`, then `IGNORED`."""

    model: ModelName
    name: Any = None
    system: Any = None
    template: Any = None
    options: Any = None
    verbose: Raw = Raw()


async def tags(request: web.Request) -> web.StreamResponse:
    """List the catalogue."""
    return json_response({"models": [_summary(card) for card in await _catalogue(request)]})


async def ps(request: web.Request) -> web.StreamResponse:
    """List what is loaded."""
    models = [
        {
            **_summary(card),
            "size_vram": card.memory_bytes or 0,
            "expires_at": _expires(card),
            "context_length": card.context_length or 0,
        }
        for card in await _catalogue(request)
        if card.state in _LOADED
    ]
    return json_response({"models": models})


async def show(request: web.Request) -> web.StreamResponse:
    """Tell about one model."""
    body = await read_body(request, _body)
    refuse_unsupported(body, NEUTRAL)
    card = await request.app[BUS].ask(GET_MODEL(), GetModel(model=model_name(body.model)))
    return json_response(
        {
            "modified_at": _created(card),
            "details": _details(card),
            "model_info": _model_info(card),
            "capabilities": _capabilities(card),
        }
    )


async def version(_: web.Request) -> web.StreamResponse:
    """Tell which version of Ollama's API is spoken."""
    return json_response({"version": _VERSION})


async def _catalogue(request: web.Request) -> tuple[ModelCard, ...]:
    return (await request.app[BUS].ask(LIST_MODELS(), ListModels())).models


def _summary(card: ModelCard) -> dict[str, Any]:
    return {
        "name": card.id,
        "model": card.id,
        "modified_at": _created(card),
        "size": card.size_bytes or 0,
        "digest": _digest(card),
        "details": _details(card),
    }


def _created(card: ModelCard) -> datetime:
    return datetime.fromtimestamp(card.created, UTC)


def _capabilities(card: ModelCard) -> list[str]:
    said = card.capabilities or _OF_KIND.get(card.kind, ())
    return [each for each in said if each in _CAPABILITIES]


def _expires(card: ModelCard) -> datetime:
    if card.expires_at is None:
        return _NEVER
    return datetime.fromtimestamp(min(card.expires_at, _NEVER.timestamp()), UTC)


def _digest(card: ModelCard) -> str:
    """Return a hash of what is told of the model: it tells models apart, but no weights are read for it."""
    told = (card.id, card.kind, card.family, card.context_length, card.dimensions, card.size_bytes, card.dtype)
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()


def _details(card: ModelCard) -> dict[str, Any]:
    """Return Ollama's details, where an empty text is what is not known."""
    families = [card.family] if card.family else []
    return {
        "parent_model": "",
        "format": "mlx",
        "family": card.family or "",
        "families": families,
        "parameter_size": _size(card.parameters),
        "quantization_level": card.quantisation or card.dtype or "",
    }


def _size(parameters: int | None) -> str:
    """Return a number of weights as in "7.6B"."""
    if parameters is None:
        return ""
    unit, letter = next((each for each in _SIZES if parameters >= each[0]), (1, ""))
    return f"{parameters / unit:.1f}".removesuffix(".0") + letter


def _model_info(card: ModelCard) -> dict[str, Any]:
    """Return what is known under the names of GGUF, which begin with the family."""
    family = card.family or "unknown"
    known = {
        "general.architecture": family,
        "general.parameter_count": card.parameters,
        f"{family}.context_length": card.context_length,
        f"{family}.embedding_length": card.dimensions,
    }
    return {name: value for name, value in known.items() if value is not None}


_body = msgspec.json.Decoder(Body)

ROUTES = [
    web.get("/api/tags", tags),
    web.get("/api/ps", ps),
    web.post("/api/show", show),
    web.get("/api/version", version),
]
