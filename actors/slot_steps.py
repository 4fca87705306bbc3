"""What the scheduler of the slots goes by, and the steps that it takes."""

from typing import Literal

from msgspec import Struct

from bus.errors import Code
from bus.messages.models import ModelPriority


class Rules(Struct, frozen=True, kw_only=True):
    """How slots are shared. Times in seconds; `budget_bytes` is for warm and heavy models together.

    `growth_bytes` is how much more than expected, and than at first, a model may take before its process is ended.
    """

    budget_bytes: int
    policy: Literal["lru", "priority", "manual"] = "lru"
    min_residency: float = 10.0
    max_overtaken: int = 32
    max_overtaken_seconds: float = 60.0
    max_waiting: int = 100
    growth_bytes: int = 4 * 2**30


class Heavy(Struct, frozen=True, kw_only=True):
    """What counts of a heavy model. `ttl` is after how many idle seconds it is ended; 0 keeps it."""

    id: str
    need_bytes: int
    priority: ModelPriority = "normal"
    pinned: bool = False
    ttl: float = 3600.0


class Grant(Struct, frozen=True):
    """The request has a lease on the model in the slot."""

    request: str
    slot: str


class Refuse(Struct, frozen=True):
    """The request will not be granted."""

    request: str
    model: str
    code: Code
    why: str


class Load(Struct, frozen=True):
    """Load the model into the empty slot."""

    slot: str
    model: str
    need_bytes: int
    why: str


class Drain(Struct, frozen=True):
    """Have the slot finish what runs, and end."""

    slot: str
    model: str
    why: str


Step = Grant | Refuse | Load | Drain


class Slot(Struct, kw_only=True):
    """One slot process. `foreign` is work without a lease: jobs, and what an earlier owner of the slots granted.

    `used_bytes` is what it is charged with, the more of what was expected and what was measured; `first_bytes` is that
    when it became ready. `since` is when it took on its state, or, once ready, its model.
    """

    name: str
    state: Literal["empty", "loading", "ready", "draining"] = "empty"
    model: Heavy | None = None
    used_bytes: int = 0
    first_bytes: int = 0
    measured_bytes: int = 0
    leases: set[str] = set()
    foreign: int = 0
    since: float = 0.0
    used_at: float = 0.0
    keep: float | None = None
    end_when_ready: str = ""

    @property
    def is_busy(self) -> bool:
        """Whether anything runs on it."""
        return bool(self.leases) or self.foreign > 0

    @property
    def may_end(self) -> bool:
        """Whether its place may be given to another model."""
        return self.state == "ready" and self.model is not None and not self.model.pinned


class Waiting(Struct, kw_only=True):
    """A request that waits for its model."""

    request: str
    model: Heavy
    arrived: float
    keep: float | None = None
    overtaken: int = 0
