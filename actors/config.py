"""The settings of the actors."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from bus.config import MOST_SECONDS, Seconds

Positive = Annotated[int, msgspec.Meta(ge=1)]
SecondsFromZero = Annotated[float, msgspec.Meta(ge=0, le=MOST_SECONDS)]


class ActorsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How much each model takes on, and how long things are kept. Times in seconds, if not said otherwise."""

    default_concurrency: Positive = 32
    max_queue_size: Annotated[int, msgspec.Meta(ge=0)] = 100
    queue_timeout: Seconds = 300.0
    step_timeout: Seconds = 300.0
    warmup: bool = True
    prefix_cache_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    prefix_cache_on_disk: bool = False
    embedding_cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = 32 * 2**20
    max_image_pixels: Positive = 64_000_000
    max_media_bytes: Positive = 200 * 2**20
    media_seconds: Seconds = 20.0
    kv_cache_bytes: Positive | None = None
    job_ttl_days: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 7
    job_max_attempts: Positive = 5
    job_run_timeout: Seconds = 3600.0
    job_ack_wait: Seconds = 30.0
    job_queue_timeout: Seconds = 86400.0
    max_queued_jobs: Positive = 1000
    events_max_bytes: Annotated[int, msgspec.Meta(ge=2**20, le=2**62)] = 4 * 2**30
    webhook_timeout: Seconds = 10.0
    webhook_retry_count: Annotated[int, msgspec.Meta(ge=0, le=9)] = 3
    webhook_networks: tuple[str, ...] = ()
    webhook_secret: str | None = None
    drain_seconds: SecondsFromZero = 10.0
    slots: Annotated[int, msgspec.Meta(ge=0, le=64)] = 2
    max_memory_gb: Annotated[float, msgspec.Meta(gt=0)] | None = None
    eviction_policy: Literal["lru", "priority", "manual"] = "lru"
    model_ttl: SecondsFromZero = 3600.0
    min_residency: SecondsFromZero = 10.0
    max_overtaken: Annotated[int, msgspec.Meta(ge=0)] = 32
    max_overtaken_seconds: Seconds = 60.0
    unload_seconds: Seconds = 600.0
    load_seconds: Seconds = 600.0
    recycle_growth_gb: Annotated[float, msgspec.Meta(gt=0)] = 4.0
    model_folders: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for network in self.webhook_networks:
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"webhook_networks: {error}") from error


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
    "JOB_QUEUE_TIMEOUT_SECONDS": "job_queue_timeout",
    "MAX_QUEUED_JOBS": "max_queued_jobs",
    "EVENTS_MAX_BYTES": "events_max_bytes",
    "WEBHOOK_TIMEOUT_SECONDS": "webhook_timeout",
    "WEBHOOK_RETRY_COUNT": "webhook_retry_count",
    "WEBHOOK_SECRET": "webhook_secret",
    "DRAIN_SECONDS": "drain_seconds",
    "MODEL_SLOTS": "slots",
    "MAX_VRAM_GB": "max_memory_gb",
    "MODEL_EVICTION_POLICY": "eviction_policy",
    "MODEL_TTL_SECONDS": "model_ttl",
}
