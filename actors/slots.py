"""Which model has which heavy slot: decides, and leaves the doing to the models actor.

The world is told in calls, each `at` a time of one monotonic clock (seconds), and each returns the steps to take, in
order. Nothing here waits, so a test can be every world.

A request holds a lease from `Grant` to `release`; a slot with leases is never ended, only kept from new ones. What
waits is decided anew after every call:

 1. Grant whoever's model is ready: work for one model goes together (collation). But on a slot that another could
    have, nobody goes past an older request that has been overtaken `max_overtaken` times.
 2. A model that has a slot, or a claim on the next one, is not loaded twice (single flight).
 3. What cannot fit beside the warm and the pinned models is refused.
 4. A free slot, and memory: claim them. A claim holds until the next call; then the oldest is first again.
 5. Else, unless the policy is `manual`, end enough idle models that nobody waits for, by the policy's order, that
    have had `min_residency`; and for a request that is due (overtaken too often, or waiting for
    `max_overtaken_seconds`) busy ones as well, which first finish what runs.
 6. Else wait; and behind one that is due nobody younger claims anything.
 7. A claim whose slot and memory have come free becomes `Load`.
"""

from actors.slot_steps import Drain, Grant, Heavy, Load, Refuse, Rules, Slot, Step, Waiting
from bus.errors import Code

_RANKS = {"low": 0, "normal": 1, "high": 2}

# Ended while loading so many times, a model is not tried again for those who wait.
_ATTEMPTS = 3


class Scheduler:
    """The slots of one machine and who waits for them."""

    def __init__(self, rules: Rules, expected: int = 0) -> None:
        """`expected` slots are there, or will be again."""
        self.rules = rules
        self.warm_bytes = 0
        self.slots: dict[str, Slot] = {}
        self._waiting: dict[str, Waiting] = {}
        self._claims: dict[str, Waiting] = {}
        self._granted: dict[str, str] = {}
        self._attempts: dict[str, int] = {}
        self._expected = expected

    @property
    def _coming(self) -> int:
        # Not counted as they come and go: a new process may be heard of before the end of the one in whose place it is.
        return max(0, self._expected - len(self.slots))

    @property
    def used_bytes(self) -> int:
        """The memory that warm models and slots have been given, those that are ending included."""
        return self.warm_bytes + sum(slot.used_bytes for slot in self.slots.values())

    def waiting(self, model: str) -> tuple[str, ...]:
        """Return the requests that wait for the model, in their order."""
        return tuple(each.request for each in self._waiting.values() if each.model.id == model)

    def slot_of(self, model: str) -> Slot | None:
        """Return the slot that has the model and is not ending."""
        held = (slot for slot in self.slots.values() if slot.model and slot.model.id == model)
        return next((slot for slot in held if slot.state != "draining"), None)

    def ask(self, request: str, model: Heavy, at: float, keep: float | None = None) -> list[Step]:
        """Take a request in. `keep` stands for the model's `ttl` when it is done; negative keeps the model."""
        if len(self.waiting(model.id)) >= self.rules.max_waiting:
            return [Refuse(request, model.id, "queue_full", f"{self.rules.max_waiting} requests wait for {model.id}.")]
        self._waiting[request] = Waiting(request=request, model=model, arrived=at, keep=keep)
        return self._plan(at)

    def release(self, request: str, at: float) -> list[Step]:
        """Take a lease back, or forget a request that waits: nobody needs it any more."""
        gone = self._waiting.pop(request, None)
        if gone is not None and not self.waiting(gone.model.id):
            self._attempts.pop(gone.model.id, None)
        slot = self.slots.get(self._granted.pop(request, ""))
        if slot is not None:
            slot.leases.discard(request)
            slot.used_at = at
        return self._plan(at)

    def unload(self, model: str, why: str, at: float) -> list[Step]:
        """End the model, also a pinned one; one that is being loaded when it is ready."""
        slot = self.slot_of(model)
        if slot is None:
            return []
        if slot.state == "loading":
            slot.end_when_ready = why
            return []
        return [self._drain(slot, why), *self._plan(at)]

    def tick(self, at: float) -> list[Step]:
        """Look at what time alone changes: idle models, and requests that have waited for long."""
        steps: list[Step] = []
        for slot in self.slots.values():
            if slot.may_end and not slot.is_busy and slot.model:
                ttl = slot.model.ttl if slot.keep is None else slot.keep
                forever = ttl < 0 or (ttl == 0 and slot.keep is None)
                if not forever and at - slot.used_at >= ttl:
                    steps.append(self._drain(slot, f"idle for {ttl:g} s"))
        return [*steps, *self._plan(at)]

    def slot_empty(self, name: str, at: float) -> list[Step]:
        """A slot process is there and has no model."""
        if name not in self.slots:
            self.slots[name] = Slot(name=name, since=at)
        return self._plan(at)

    def slot_adopted(self, name: str, model: Heavy, used_bytes: int, at: float, running: int = 0) -> list[Step]:
        """A slot process is there that somebody else has had load a model. It is ended if another slot has that too."""
        other = self.slot_of(model.id)
        self.slots[name] = slot = Slot(name=name, state="ready", model=model, since=at, used_at=at)
        slot.foreign = running
        slot.measured_bytes = used_bytes
        slot.used_bytes = slot.first_bytes = max(used_bytes, model.need_bytes)
        self._claims.clear()  # One of them may have been for this place.
        steps = [self._drain(slot, f"{other.name} has {model.id} as well")] if other else []
        return [*steps, *self._plan(at)]

    def slot_ready(self, name: str, used_bytes: int, at: float) -> list[Step]:
        """The slot's model answers; measured, it takes `used_bytes`."""
        slot = self.slots.get(name)
        if slot is None or slot.state != "loading" or slot.model is None:
            return []
        self._attempts.pop(slot.model.id, None)
        slot.state, slot.since, slot.used_at = "ready", at, at
        slot.measured_bytes = used_bytes
        slot.used_bytes = slot.first_bytes = max(slot.used_bytes, used_bytes)
        steps = self._plan(at)
        if slot.end_when_ready and slot.state == "ready":
            steps += [self._drain(slot, slot.end_when_ready), *self._plan(at)]
        return steps

    def slot_failed(self, name: str, code: Code, why: str, at: float) -> list[Step]:
        """The slot's model cannot be loaded; the process ends."""
        slot = self.slots.get(name)
        if slot is None or slot.state != "loading" or slot.model is None:
            return []
        slot.state = "draining"
        return [*self._refuse(slot.model.id, code, why), *self._plan(at)]

    def slot_gone(self, name: str, at: float) -> list[Step]:
        """The slot's process has ended, as it was told or not; another will come in its place."""
        slot = self.slots.pop(name, None)
        if slot is None:
            return []
        for request in slot.leases:
            self._granted.pop(request, None)
        steps: list[Step] = []
        if slot.state == "loading" and slot.model:
            self._attempts[slot.model.id] = attempts = self._attempts.get(slot.model.id, 0) + 1
            if attempts >= _ATTEMPTS:
                why = f"The process of {slot.model.id} ended {attempts} times while it was loading."
                steps = self._refuse(slot.model.id, "crashed", why)
        return [*steps, *self._plan(at)]

    def slot_works(
        self, name: str, running: int, used_bytes: int, at: float, *, is_draining: bool = False
    ) -> list[Step]:
        """Take in what a slot says of itself: how many requests and jobs it has, its memory, and whether it ends."""
        slot = self.slots.get(name)
        if slot is None or slot.model is None or slot.state not in {"ready", "draining"}:
            return []
        slot.foreign = max(0, running - len(slot.leases))
        if slot.foreign:
            slot.used_at = at
        slot.measured_bytes = used_bytes
        slot.used_bytes = max(used_bytes, slot.model.need_bytes)
        steps: list[Step] = []
        if is_draining:
            slot.state = "draining"  # By somebody else's order.
        elif slot.state == "ready" and used_bytes > slot.first_bytes + self.rules.growth_bytes:
            steps.append(self._drain(slot, f"its memory has grown to {_gb(used_bytes)}"))
        return [*steps, *self._plan(at)]

    def _plan(self, at: float) -> list[Step]:
        steps = [*self._grant_ready(at), *self._claim_places(at)]
        # Whoever has a claim now holds nobody back any more.
        return [*steps, *self._grant_ready(at), *self._fulfil(at)]

    def _grant_ready(self, at: float) -> list[Step]:  # 1
        steps: list[Step] = []
        older: list[Waiting] = []  # Those whose model has neither a slot nor a claim.
        for waiting in list(self._waiting.values()):
            slot = self.slot_of(waiting.model.id)
            if slot is None and waiting.model.id not in self._claims:
                older.append(waiting)
            if slot is None or slot.state != "ready":
                continue
            passed = older if slot.may_end and self.rules.policy != "manual" else []
            if any(other.overtaken >= self.rules.max_overtaken for other in passed):
                continue
            for other in passed:
                other.overtaken += 1
            del self._waiting[waiting.request]
            slot.leases.add(waiting.request)
            slot.used_at = at
            slot.keep = slot.keep if waiting.keep is None else waiting.keep
            self._granted[waiting.request] = slot.name
            steps.append(Grant(waiting.request, slot.name))
        return steps

    def _claim_places(self, at: float) -> list[Step]:
        steps: list[Step] = []
        self._claims.clear()
        for waiting in list(self._waiting.values()):
            model = waiting.model.id
            if waiting.request not in self._waiting or model in self._claims or self.slot_of(model):  # 2
                continue
            steps += self._place(waiting, at)
            if waiting.request in self._waiting and model not in self._claims and self._is_due(waiting, at):
                break  # 6
        return steps

    def _place(self, waiting: Waiting, at: float) -> list[Step]:
        need, budget = waiting.model.need_bytes, self.rules.budget_bytes
        kept = [slot for slot in self.slots.values() if slot.model and slot.model.pinned and slot.state != "draining"]
        fixed = self.warm_bytes + sum(slot.used_bytes for slot in kept)
        if fixed + need > budget:  # 3
            why = f"{waiting.model.id} needs {_gb(need)}; of {_gb(budget)} what stays loaded takes {_gb(fixed)}."
            return self._refuse(waiting.model.id, "insufficient_memory", why)
        if len(kept) == len(self.slots) + self._coming:
            names = ", ".join(slot.model.id for slot in kept if slot.model)
            why = f"Every slot has a pinned model: {names}." if kept else "There are no slots."
            return self._refuse(waiting.model.id, "insufficient_memory", why)
        places, free = self._places(), self._free_later()
        victims: list[Slot] = []
        for slot in self._victims(waiting, at):  # 5
            if places > 0 and free >= need:
                break
            victims.append(slot)
            places, free = places + 1, free + slot.used_bytes
        if places <= 0 or free < need:  # 6
            return self._refuse_when_manual(waiting)
        for slot in list(victims):
            if places > 1 and free - slot.used_bytes >= need:  # Others give enough.
                victims.remove(slot)
                places, free = places - 1, free - slot.used_bytes
        self._claims[waiting.model.id] = waiting  # 4
        return [self._drain(slot, f"its place is for {waiting.model.id}") for slot in victims]

    def _refuse_when_manual(self, waiting: Waiting) -> list[Step]:
        is_changing = self._coming or any(slot.state in {"loading", "draining"} for slot in self.slots.values())
        if self.rules.policy != "manual" or is_changing:
            return []
        why = f"There is no room for {waiting.model.id}, and by the policy `manual` nothing is unloaded for it."
        return self._refuse(waiting.model.id, "insufficient_memory", why)

    def _places(self) -> int:
        """Return how many slots are, or will be, empty and not claimed."""
        coming = sum(slot.state in {"empty", "draining"} for slot in self.slots.values()) + self._coming
        return coming - len(self._claims)

    def _free_later(self) -> int:
        """Return the memory that is free when all that is ending has ended and all that is claimed is loaded."""
        staying = sum(slot.used_bytes for slot in self.slots.values() if slot.state != "draining")
        claimed = sum(claim.model.need_bytes for claim in self._claims.values())
        return self.rules.budget_bytes - self.warm_bytes - staying - claimed

    def _victims(self, waiting: Waiting, at: float) -> list[Slot]:
        """Return the slots that may be ended for this request, those to end first in front."""
        if self.rules.policy == "manual":
            return []
        able = [slot for slot in self.slots.values() if slot.may_end]
        if not self._is_due(waiting, at):
            able = [slot for slot in able if self._is_spare(slot, at)]
        return sorted(able, key=self._order)

    def _is_due(self, waiting: Waiting, at: float) -> bool:
        waited = at - waiting.arrived
        return waited >= self.rules.max_overtaken_seconds or waiting.overtaken >= self.rules.max_overtaken

    def _is_spare(self, slot: Slot, at: float) -> bool:
        is_wanted = slot.model is not None and bool(self.waiting(slot.model.id))
        return not slot.is_busy and not is_wanted and at - slot.since >= self.rules.min_residency

    def _order(self, slot: Slot) -> tuple[int, bool, float]:
        rank = _RANKS[slot.model.priority] if slot.model and self.rules.policy == "priority" else 0
        return rank, slot.is_busy, slot.used_at

    def _fulfil(self, at: float) -> list[Step]:  # 7
        steps: list[Step] = []
        for claim in list(self._claims.values()):
            model = claim.model
            empty = next((slot for slot in self.slots.values() if slot.state == "empty"), None)
            if empty is None or self.used_bytes + model.need_bytes > self.rules.budget_bytes:
                continue
            del self._claims[model.id]
            empty.state, empty.model, empty.since = "loading", model, at
            empty.used_bytes = model.need_bytes
            steps.append(Load(empty.name, model.id, model.need_bytes, f"asked for by {claim.request}"))
        return steps

    def _drain(self, slot: Slot, why: str) -> Drain:
        slot.state = "draining"
        return Drain(slot.name, slot.model.id if slot.model else "", why)

    def _refuse(self, model: str, code: Code, why: str) -> list[Step]:
        self._attempts.pop(model, None)
        return [Refuse(request, model, code, why) for request in self.waiting(model) if self._waiting.pop(request)]


def _gb(size: int) -> str:
    return f"{size / 2**30:.3g} GB"
