"""The settings of the actors, and the catalogue of models."""

from typing import Annotated, Literal

import msgspec

from bus.messages.models import ModelKind

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class ActorsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How much each model takes on, and how long things are kept. Times in seconds, if not said otherwise."""

    default_concurrency: Positive = 32
    max_queue_size: Annotated[int, msgspec.Meta(ge=0)] = 100
    queue_timeout: Seconds = 300.0
    step_timeout: Seconds = 300.0
    warmup: bool = True
    prefix_cache_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    prefix_cache_on_disk: bool = False
    kv_cache_bytes: Positive | None = None
    job_ttl_days: Positive = 7
    job_max_attempts: Positive = 5
    job_run_timeout: Seconds = 3600.0
    job_ack_wait: Seconds = 30.0
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0


_FOR_CHAT = ("draft_model", "context_length", "prefix_cache_bytes", "kv_cache_bytes", "kv_bits")


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the catalogue.

    `path` is a folder, a hub id, or `embedded:<name>` for what Fusion brings along; it defaults to the id.
    `draft_model` is such a path too: a small chat model that speeds up one text at a time.
    """

    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
    kind: ModelKind
    path: str = ""
    draft_model: str = ""
    tier: Annotated[int, msgspec.Meta(ge=0, le=2)] = 1
    concurrency: Positive | None = None
    context_length: Positive | None = None
    prefix_cache_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    kv_cache_bytes: Positive | None = None
    kv_bits: Literal[4, 8] | None = None
    description: str = ""
    tags: tuple[str, ...] = ("local",)

    def __post_init__(self) -> None:
        """Raise `ValueError` for what this kind of model does not have."""
        said = [name for name in _FOR_CHAT if getattr(self, name) not in (None, "")]
        if said and self.kind != "chat":
            raise ValueError(f"`{said[0]}` is for chat models")


VARIABLES = {
    "DEFAULT_CONCURRENCY": "default_concurrency",
    "MAX_QUEUE_SIZE": "max_queue_size",
    "QUEUE_TIMEOUT_SECONDS": "queue_timeout",
    "STEP_TIMEOUT_SECONDS": "step_timeout",
    "MLX_WARMUP": "warmup",
    "PREFIX_CACHE_BYTES": "prefix_cache_bytes",
    "PREFIX_CACHE_ON_DISK": "prefix_cache_on_disk",
    "KV_CACHE_BYTES": "kv_cache_bytes",
    "JOB_TTL_DAYS": "job_ttl_days",
    "JOB_MAX_ATTEMPTS": "job_max_attempts",
    "JOB_RUN_TIMEOUT_SECONDS": "job_run_timeout",
    "JOB_ACK_WAIT_SECONDS": "job_ack_wait",
    "DRAIN_SECONDS": "drain_seconds",
}
