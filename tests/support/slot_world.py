"""A simulated machine with heavy slots: does what the scheduler says, keeps its own books, and checks every step."""

from typing import Literal, assert_never

from msgspec import Struct

from actors.slot_steps import Drain, Grant, Heavy, Load, Refuse, Rules, Step
from actors.slots import Scheduler


class Process(Struct, kw_only=True):
    """A slot process. It ends under a lease only when it is killed."""

    name: str
    state: Literal["empty", "loading", "ready", "draining"] = "empty"
    model: Heavy | None = None
    measured: int = 0
    first: int = 0
    leases: set[str] = set()
    foreign: int = 0
    since: float = 0.0
    end_when_ready: bool = False

    @property
    def charged(self) -> int:
        """The bytes that it may take: what was estimated, or measured if that is more."""
        return max(self.model.need_bytes if self.model else 0, self.measured)

    @property
    def is_held(self) -> bool:
        return self.model is not None and self.state in {"loading", "ready"}


class Waiting(Struct, kw_only=True):
    """A request. It was overtaken `surely` so often; `perhaps` counts also when a place may have been on its way."""

    model: Heavy
    arrived: float
    surely: int = 0
    perhaps: int = 0


class World:
    """The slots, who waits, and who has what; `coming` slots are about to be there."""

    def __init__(self, rules: Rules, models: list[Heavy], slots: int, warm_bytes: int = 0) -> None:
        self.rules = rules
        self.models = {model.id: model for model in models}
        self.scheduler = Scheduler(rules, expected=slots)
        self.scheduler.warm_bytes = warm_bytes
        self.coming = slots
        self.now = 1000.0
        self.processes: dict[str, Process] = {}
        self.waiting: dict[str, Waiting] = {}
        self.granted: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.loads = 0
        self._names = 0
        self._deaths: dict[str, int] = {}

    @property
    def used_bytes(self) -> int:
        return self.scheduler.warm_bytes + sum(process.charged for process in self.processes.values())

    def in_state(self, *states: str) -> list[Process]:
        return [process for process in self.processes.values() if process.state in states]

    def slot_with(self, model: str) -> Process | None:
        """Return the process that has the model and takes work for it, or will."""
        having = [each for each in self.processes.values() if each.is_held and each.model and each.model.id == model]
        assert len(having) <= 1, f"two slots have {model}"
        return having[0] if having else None

    # What happens

    def ask(self, model: str, keep: float | None = None) -> str:
        request = self._name("request")
        queued = sum(waiting.model.id == model for waiting in self.waiting.values())
        self.waiting[request] = Waiting(model=self.models[model], arrived=self.now)
        steps = self.scheduler.ask(request, self.models[model], self.now, keep)
        is_full = bool(steps) and isinstance(steps[0], Refuse) and steps[0].code == "queue_full"
        assert is_full == (queued >= self.rules.max_waiting)
        self._do(steps, may_refuse="queue_full")
        return request

    def release(self, request: str) -> None:
        self.waiting.pop(request, None)
        process = self.processes.get(self.granted.pop(request, ""))
        if process is not None:
            process.leases.discard(request)
        self._do(self.scheduler.release(request, self.now))

    def unload(self, model: str) -> None:
        process = self.slot_with(model)
        if process is not None and process.state == "loading":
            process.end_when_ready = True
        self._do(self.scheduler.unload(model, "asked to", self.now), unloaded=process)
        assert process is None or process.end_when_ready or process.state == "draining"

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self._do(self.scheduler.tick(self.now))

    def comes(self) -> str:
        self.coming -= 1
        name = self._name("slot")
        self.processes[name] = Process(name=name)
        self._do(self.scheduler.slot_empty(name, self.now))
        return name

    def adopted(self, model: str, measured: int) -> None:
        self.coming -= 1
        name = self._name("slot")
        process = Process(name=name, state="ready", model=self.models[model], measured=measured, since=self.now)
        process.first = process.charged
        other = self.slot_with(model)
        self.processes[name] = process
        steps = self.scheduler.slot_adopted(name, self.models[model], measured, self.now)
        self._do(steps, unloaded=process if other else None)

    def loaded(self, name: str, measured: int) -> None:
        process = self.processes[name]
        process.state, process.measured, process.since = "ready", measured, self.now
        process.first = process.charged
        steps = self.scheduler.slot_ready(name, measured, self.now)
        self._do(steps, unloaded=process if process.end_when_ready else None)
        assert process.state == "draining" or not process.end_when_ready

    def failed(self, name: str) -> None:
        process = self.processes[name]
        assert process.model is not None
        process.state = "draining"
        self._do(self.scheduler.slot_failed(name, "invalid_request", "Bad.", self.now), may_refuse="invalid_request")
        assert all(waiting.model.id != process.model.id for waiting in self.waiting.values())

    def ends(self, name: str) -> None:
        """The process ends, as a drained one when it has nothing to do, or killed."""
        process = self.processes.pop(name)
        self.coming += 1
        if process.state == "loading" and process.model:
            self._deaths[process.model.id] = self._deaths.get(process.model.id, 0) + 1
        for request in process.leases:
            del self.granted[request]
        is_hopeless = process.model is not None and self._deaths.get(process.model.id, 0) >= 3
        self._do(self.scheduler.slot_gone(name, self.now), may_refuse="crashed" if is_hopeless else "")

    def beats(self, name: str, foreign: int = 0, *, is_draining: bool = False) -> None:
        process = self.processes[name]
        process.foreign = foreign
        if is_draining:
            process.state = "draining"
        has_grown = process.state == "ready" and process.measured > process.first + self.rules.growth_bytes
        running = len(process.leases) + foreign
        steps = self.scheduler.slot_works(name, running, process.measured, self.now, is_draining=is_draining)
        self._do(steps, unloaded=process if has_grown else None)
        assert not has_grown or process.state == "draining"

    def settle(self) -> None:
        """Let the world go on fairly until nobody waits: one load, drain and start of a process at a time."""
        for _ in range(300):
            if not self.waiting:
                return
            for process in self.in_state("loading")[:1]:
                self.loaded(process.name, process.charged)
            for request in list(self.granted):
                self.release(request)
            for process in self.in_state("ready", "draining"):
                self.beats(process.name)
            for process in self.in_state("draining")[:1]:
                self.ends(process.name)
            if self.coming:
                self.comes()
            self.tick(1.0)
        raise AssertionError(f"these wait for ever: {self.waiting}")

    # What the scheduler says

    def _do(self, steps: list[Step], *, unloaded: Process | None = None, may_refuse: str = "") -> None:
        for step in steps:
            match step:
                case Grant():
                    self._grant(step)
                case Refuse():
                    self._refuse(step, may_refuse)
                case Load():
                    self._load(step)
                case Drain():
                    self._drain(step, unloaded)
                case _:
                    assert_never(step)
        for model in self.models:
            self.slot_with(model)
        assert self.scheduler.used_bytes == self.used_bytes
        for waiting in self.waiting.values():
            first = self.slot_with(waiting.model.id)
            assert first is None or first.state == "loading", "the oldest request waits although its model is ready"
            break

    def _grant(self, step: Grant) -> None:
        waiting, process = self.waiting[step.request], self.processes[step.slot]
        assert process.state == "ready"
        assert process.model is not None
        assert process.model.id == waiting.model.id
        for request, other in self.waiting.items():
            if request == step.request:
                break  # They stand in the order in which they came.
            assert other.model.id != waiting.model.id, "requests for one model are granted in their order"
            if self.slot_with(other.model.id) is None and not process.model.pinned and self.rules.policy != "manual":
                self._overtake(other)
        del self.waiting[step.request]
        process.leases.add(step.request)
        self.granted[step.request] = step.slot

    def _overtake(self, other: Waiting) -> None:
        other.perhaps += 1
        if not self.coming and not self.in_state("empty", "draining"):
            other.surely += 1
            assert other.surely <= self.rules.max_overtaken

    def _refuse(self, step: Refuse, may_refuse: str) -> None:
        waiting = self.waiting.pop(step.request)
        assert step.model == waiting.model.id
        if step.code == "insufficient_memory":
            pinned = [each for each in self.processes.values() if each.is_held and each.model and each.model.pinned]
            staying = self.scheduler.warm_bytes + sum(process.charged for process in pinned)
            has_no_memory = staying + waiting.model.need_bytes > self.rules.budget_bytes
            has_no_slot = len(pinned) == len(self.processes) + self.coming
            assert has_no_memory or has_no_slot or self.rules.policy == "manual"
        else:
            assert step.code == may_refuse
        if step.code == "crashed":
            self._deaths.pop(step.model, None)
        self.refused[step.request] = step.code

    def _load(self, step: Load) -> None:
        process, model = self.processes[step.slot], self.models[step.model]
        assert process.state == "empty"
        assert self.slot_with(step.model) is None
        assert any(waiting.model.id == step.model for waiting in self.waiting.values()), "loaded for nobody"
        assert step.need_bytes == model.need_bytes
        assert self.used_bytes + model.need_bytes <= self.rules.budget_bytes
        process.state, process.model, process.since = "loading", model, self.now
        self.loads += 1

    def _drain(self, step: Drain, unloaded: Process | None) -> None:
        process = self.processes[step.slot]
        assert process.state == "ready"
        assert process.model is not None
        assert process.model.id == step.model
        assert step.why
        if process is not unloaded:
            assert not process.model.pinned
            is_busy = bool(process.leases) or process.foreign > 0
            if "idle" in step.why:
                assert not is_busy
            else:
                assert self.rules.policy != "manual"
                is_resident = self.now - process.since >= self.rules.min_residency
                assert (is_resident and not is_busy) or any(map(self._is_due, self.waiting.values()))
        process.state = "draining"

    def _is_due(self, waiting: Waiting) -> bool:
        waited = self.now - waiting.arrived >= self.rules.max_overtaken_seconds
        return waited or waiting.perhaps >= self.rules.max_overtaken

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}-{self._names}"
