"""What the models actor and the heavy slots say to each other."""

from msgspec import Struct

from bus.messages.catalogue import ModelEntry


class LoadSlot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Load `entry` into this slot, which must be empty."""

    entry: ModelEntry


class SlotLoaded(Struct, frozen=True, kw_only=True):
    """The model of the slot answers. `seconds` is what loading took, `memory_bytes` what its process now takes."""

    seconds: float
    memory_bytes: int


class Drain(Struct, frozen=True, kw_only=True):
    """Take no more, finish what is running within `seconds`, and end."""

    seconds: float
    why: str
