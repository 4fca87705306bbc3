"""What is said about models."""

from typing import Annotated, Literal

import msgspec
from msgspec import Struct

ModelKind = Literal["chat", "embeddings", "vision", "transcription", "speech", "image", "rerank"]
ModelPriority = Literal["high", "normal", "low"]
Quantisation = Literal["auto", "none", "4bit", "8bit"]

# `available` lies on this machine and is not in the catalogue; `unloaded` is, and is loaded when it is asked.
ModelState = Literal[
    "available", "unloaded", "waiting", "loading", "ready", "stuck", "draining", "restarting", "failed"
]


class ListModels(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell which models there are; with `available` also those on this machine that are not in the catalogue."""

    available: bool = False


class GetModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell about one model, by its id or an alias."""

    model: str


class ModelCard(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model and how it stands.

    `created` is in seconds since the epoch. `memory_bytes` is what its process takes, `estimated_bytes` what it is
    expected to take. `parameters` counts weights. `leases` are the requests that hold it, and `expires_at`, in
    seconds since the epoch, is when an idle heavy model is unloaded, if nobody asks it before. `load_seconds` is how
    long loading took, `profile` the kind of machine that it computes for, and with `is_matryoshka` its
    vectors may be cut to `matryoshka_dimensions`, or to any length if there are none.
    """

    id: str
    kind: ModelKind
    tier: int
    state: ModelState
    created: int
    aliases: tuple[str, ...] = ()
    family: str | None = None
    context_length: int | None = None
    dimensions: int | None = None
    parameters: int | None = None
    quantisation: str | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    estimated_bytes: int | None = None
    dtype: str | None = None
    profile: str | None = None
    modalities: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    description: str = ""
    pinned: bool = False
    priority: ModelPriority = "normal"
    ttl: float | None = None
    leases: int = 0
    expires_at: float | None = None
    instance: str | None = None
    error: str | None = None
    path: str = ""
    blas: str | None = None
    load_seconds: float | None = None
    matryoshka_dimensions: tuple[int, ...] = ()
    is_matryoshka: bool = False


class ModelList(Struct, frozen=True, kw_only=True):
    """All models of the catalogue."""

    models: tuple[ModelCard, ...]


class LoadModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Load a model, and answer when it is loaded; one that is loaded already is answered for at once.

    With `path` a model that the catalogue does not have is added to it, as a heavy one: a hub id, or a folder below
    one of the configured folders. Its kind is read from its files unless it is said. `ttl` is in seconds.
    """

    model: str = ""
    path: str | None = None
    kind: ModelKind | None = None
    context_length: Annotated[int, msgspec.Meta(ge=1)] | None = None
    priority: ModelPriority | None = None
    ttl: Annotated[float, msgspec.Meta(ge=0)] | None = None


class UnloadModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unload a heavy model when what runs on it is done, and answer when its memory is free."""

    model: str


class ModelProgress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How loading or unloading stands; the last piece has `done` and, after loading, the `card`.

    `state` is that of the model, `why` what it waits for. `seconds` counts from the order; `freed_bytes` is what
    unloading gave back.
    """

    model: str
    state: ModelState
    why: str = ""
    seconds: float = 0.0
    done: bool = False
    freed_bytes: int = 0
    card: ModelCard | None = None


class ReloadCatalogue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read the configured models again, without touching what runs."""


class CatalogueReloaded(Struct, frozen=True, kw_only=True):
    """What has changed in the catalogue, by the models' ids.

    Of a model that is loaded, what was `changed` or `removed` holds when it has been unloaded.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class RemoveModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take out of the catalogue what `LoadModel` has added to it. Refused while the model is loaded."""

    model: str


class ModelRemoved(Struct, frozen=True, kw_only=True):
    """The catalogue does not have the model any more."""

    model: str
