"""What an instance says of itself once a second."""

from typing import Literal

from msgspec import Struct

InstanceState = Literal["empty", "starting", "ready", "stuck", "draining", "down", "failed"]


class Load(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How busy a mailbox is, counted in requests."""

    queued: int = 0
    running: int = 0
    max_queue: int = 0
    concurrency: int = 0
    served: int = 0
    refused: int = 0


class Heartbeat(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An instance is alive; `state` is `ready` only while its engine makes progress.

    `role` is the kind of actor (chat, embeddings, core, historian, edge …). `slot` is the number of the heavy slot that
    it is; one without a model is `empty`. The supervisor says `down` once of an
    instance whose process has ended, as does a process that ends itself, and `failed` of one that it has given up.
    Bytes are of memory: the process', and what mlx holds. `working` counts the requests being answered, of any kind.
    """

    instance: str
    role: str
    state: InstanceState
    pid: int
    at: float
    model: str | None = None
    slot: int | None = None
    load: Load = Load()
    working: int = 0
    rss_bytes: int = 0
    mlx_bytes: int = 0
    detail: dict[str, str] = {}
