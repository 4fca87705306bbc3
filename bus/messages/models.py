"""What is said about models."""

from typing import Literal

from msgspec import Struct

ModelKind = Literal["chat", "embeddings"]
ModelState = Literal["loading", "ready", "stuck", "draining", "restarting", "failed"]


class ListModels(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell which models there are."""


class GetModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell about one model."""

    model: str


class ModelCard(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of the catalogue and how it stands. `created` is in seconds since the epoch."""

    id: str
    kind: ModelKind
    tier: int
    state: ModelState
    created: int
    family: str | None = None
    context_length: int | None = None
    dimensions: int | None = None
    size_bytes: int | None = None
    dtype: str | None = None
    tags: tuple[str, ...] = ()
    description: str = ""


class ModelList(Struct, frozen=True, kw_only=True):
    """All models of the catalogue."""

    models: tuple[ModelCard, ...]
