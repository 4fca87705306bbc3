"""What the catalogue says of a model."""

from typing import Annotated, Literal

import msgspec

from bus.messages.models import ModelKind, ModelPriority, Quantisation

Positive = Annotated[int, msgspec.Meta(ge=1)]

MODEL_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?\Z"
ModelId = Annotated[str, msgspec.Meta(pattern=MODEL_ID)]

# Jobs name the rag actor in the place of a model.
_TAKEN = "rag"

# Models of this tier share the slots; those below have a process each.
HEAVY = 2

_FOR_CHAT = ("draft_model", "adapter", "context_length", "prefix_cache_bytes", "kv_cache_bytes", "kv_bits")


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the catalogue.

    `path` is a folder, a hub id, or `embedded:<name>` for what Fusion brings along; it defaults to the id.
    `draft_model` is such a path too: a small chat model that speeds up one text at a time. `adapter` is a folder with
    a LoRA adapter. With `trust_code` the code that comes with the model itself may be run.
    Models of tier 2 are heavy: they share the slots, and what follows `tier` is said of them alone. `ttl` is after
    how many idle seconds one is unloaded; 0 keeps it. `memory_bytes` takes the place of the estimate.
    `matryoshka_dimensions` are what the vectors of an embeddings model may be cut to.
    """

    id: ModelId
    kind: ModelKind
    path: str = ""
    aliases: tuple[ModelId, ...] = ()
    draft_model: str = ""
    adapter: str = ""
    trust_code: bool = False
    quantisation: Quantisation = "none"
    tier: Annotated[int, msgspec.Meta(ge=0, le=2)] = 1
    pinned: bool = False
    preload: bool = False
    priority: ModelPriority = "normal"
    ttl: Annotated[float, msgspec.Meta(ge=0)] | None = None
    memory_bytes: Positive | None = None
    concurrency: Positive | None = None
    context_length: Positive | None = None
    prefix_cache_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    kv_cache_bytes: Positive | None = None
    kv_bits: Literal[4, 8] | None = None
    matryoshka_dimensions: tuple[Positive, ...] = ()
    description: str = ""
    tags: tuple[str, ...] = ("local",)

    def __post_init__(self) -> None:
        """Raise `ValueError` for what this kind of model does not have, and for a name that is taken."""
        if _TAKEN in (self.id, *self.aliases):
            raise ValueError(f"no model can be called `{_TAKEN}`, as the rag actor is")
        said = [name for name in _FOR_CHAT if getattr(self, name) not in (None, "")]
        if self.trust_code:
            said.append("trust_code")
        if said and self.kind != "chat":
            raise ValueError(f"`{said[0]}` is for chat models")
        if self.matryoshka_dimensions and self.kind != "embeddings":
            raise ValueError("`matryoshka_dimensions` is for embeddings models")
