"""The scheduler of the slots in worlds that hypothesis makes up; `World` checks every step that it takes."""

from collections.abc import Iterable
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs

from actors.slot_steps import Heavy, Rules
from tests.support.slot_world import World

RULES = some.builds(
    Rules,
    budget_bytes=some.just(100),
    policy=some.sampled_from(("lru", "lru", "priority", "manual")),
    min_residency=some.sampled_from((0.0, 10.0)),
    max_overtaken=some.sampled_from((1, 2, 0, 5)),
    max_overtaken_seconds=some.sampled_from((5.0, 60.0, 1e9)),
    max_waiting=some.sampled_from((3, 100)),
    growth_bytes=some.sampled_from((3, 1000)),
)
MODEL = some.builds(
    Heavy,
    id=some.just("unnamed"),
    need_bytes=some.integers(20, 60) | some.integers(5, 110),
    priority=some.sampled_from(("low", "normal", "high")),
    pinned=some.sampled_from((False, False, False, False, True)),
    ttl=some.sampled_from((0.0, 3.0, 30.0, 3600.0)),
)
KEEP = some.sampled_from((None, None, None, 0.0, 5.0, -1.0))
SECONDS = some.sampled_from((0.5, 3.0, 10.0, 60.0))

T = TypeVar("T")

# Which of those there are, counted round.
WHICH = some.integers(0, 11)


class Slots(RuleBasedStateMachine):
    """In an honest world no model takes more than was estimated, and nobody else's models turn up."""

    @initialize(
        rules=RULES,
        models=some.lists(MODEL, min_size=3, max_size=6),
        slots=some.sampled_from((2, 3, 1, 0)),
        warm=some.sampled_from((0, 10, 40)),
        is_honest=some.booleans(),
    )
    def begin(self, rules: Rules, models: list[Heavy], slots: int, warm: int, is_honest: bool) -> None:
        named = [structs.replace(model, id=f"m{number}") for number, model in enumerate(models)]
        self.world = World(rules, named, slots, warm)
        self.is_honest = is_honest
        for _ in range(slots):
            self.world.comes()

    @rule(which=WHICH, times=some.integers(1, 3), keep=KEEP)
    def ask(self, which: int, times: int, keep: float | None) -> None:
        for _ in range(times):
            self.world.ask(one(self.world.models, which), keep)

    @rule(which=WHICH)
    def ask_for_two(self, which: int) -> None:
        for number in range(4):
            self.world.ask(one(self.world.models, which + number % 2))

    @rule()
    def all_that_changes_has_changed(self) -> None:
        for process in self.world.in_state("draining"):
            if not process.leases and not process.foreign:
                self.world.ends(process.name)
        for _ in range(self.world.coming):
            self.world.comes()
        for process in self.world.in_state("loading"):
            self.world.loaded(process.name, process.charged)

    @precondition(lambda self: self.world.granted)
    @rule(which=WHICH)
    def finish_a_request(self, which: int) -> None:
        self.world.release(one(self.world.granted, which))

    @precondition(lambda self: self.world.granted)
    @rule()
    def finish_all_requests(self) -> None:
        for request in list(self.world.granted):
            self.world.release(request)

    @precondition(lambda self: self.world.waiting or self.world.refused)
    @rule(which=WHICH)
    def give_up(self, which: int) -> None:
        self.world.release(one([*self.world.waiting, *self.world.refused], which))

    @rule(which=WHICH)
    def unload(self, which: int) -> None:
        self.world.unload(one(self.world.models, which))

    @rule(seconds=SECONDS)
    def let_time_pass(self, seconds: float) -> None:
        self.world.tick(seconds)

    @precondition(lambda self: self.world.coming)
    @rule()
    def a_slot_comes(self) -> None:
        self.world.comes()

    @precondition(lambda self: self.world.in_state("draining"))
    @rule(which=WHICH)
    def a_slot_comes_before_the_end_of_the_one_it_replaces_is_heard_of(self, which: int) -> None:
        ending = one(self.world.in_state("draining"), which)
        self.world.comes()
        self.world.ends(ending.name)

    @precondition(lambda self: self.world.coming and not self.is_honest)
    @rule(which=WHICH, measured=some.integers(1, 60))
    def adopt(self, which: int, measured: int) -> None:
        self.world.adopted(one(self.world.models, which), measured)

    @precondition(lambda self: self.world.in_state("loading"))
    @rule(which=WHICH, share=some.sampled_from((0.5, 1.0, 1.5)))
    def finish_loading(self, which: int, share: float) -> None:
        process = one(self.world.in_state("loading"), which)
        self.world.loaded(process.name, int(process.charged * (min(share, 1.0) if self.is_honest else share)))

    @precondition(lambda self: self.world.in_state("loading"))
    @rule(which=WHICH)
    def fail_to_load(self, which: int) -> None:
        self.world.failed(one(self.world.in_state("loading"), which).name)

    @precondition(lambda self: self.world.processes)
    @rule(which=WHICH)
    def kill(self, which: int) -> None:
        self.world.ends(one(self.world.processes, which))

    @precondition(lambda self: self.world.in_state("ready", "draining"))
    @rule(which=WHICH, foreign=some.integers(0, 2), more=some.integers(-5, 5), by_hand=some.integers(0, 4))
    def beat(self, which: int, foreign: int, more: int, by_hand: int) -> None:
        process = one(self.world.in_state("ready", "draining"), which)
        if not self.is_honest:
            process.measured = max(1, process.measured + more)
        self.world.beats(process.name, foreign, is_draining=by_hand == 4 or process.state == "draining")

    @precondition(lambda self: not self.is_honest)
    @rule(warm=some.integers(0, 60))
    def warm_models_change(self, warm: int) -> None:
        self.world.scheduler.warm_bytes = warm

    @invariant()
    def never_over_budget(self) -> None:
        assert not self.is_honest or self.world.used_bytes <= self.world.rules.budget_bytes

    def teardown(self) -> None:
        """Nobody new asks, and what runs ends: then every wait ends."""
        if hasattr(self, "world"):
            self.world.settle()


def one(things: Iterable[T], which: int) -> T:
    """Return one of the things, counted round."""
    those = list(things)
    return those[which % len(those)]


class TestSlots(Slots.TestCase):  # type: ignore[name-defined,misc]
    """The same worlds each time; a longer search is `run_state_machine_as_test(Slots, settings=…)`."""

    settings = settings(max_examples=150, stateful_step_count=50, derandomize=True, database=None)
