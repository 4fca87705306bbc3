"""The scheduler of the slots, told in a few calls."""

from typing import Any

from actors.slot_steps import Drain, Grant, Heavy, Load, Refuse, Rules, Step
from actors.slots import Scheduler


def heavy(model: str, need_bytes: int = 40, **fields: Any) -> Heavy:
    return Heavy(id=model, need_bytes=need_bytes, **fields)


def scheduler(*slots: str, **rules: Any) -> Scheduler:
    """Return one with empty slots, of which each model may be ended at once if nothing else is said."""
    made = Scheduler(Rules(**({"budget_bytes": 100, "min_residency": 0.0} | rules)), expected=len(slots))
    for name in slots:
        made.slot_empty(name, 0)
    return made


def load(made: Scheduler, model: Heavy, at: float = 0, *, keep: float | None = None) -> str:
    """Have the model loaded, and the one who asked for it leave; return its slot."""
    made.ask(f"first-{model.id}", model, at, keep)
    slot = made.slot_of(model.id)
    assert slot is not None
    assert made.slot_ready(slot.name, model.need_bytes, at) == [Grant(f"first-{model.id}", slot.name)]
    made.release(f"first-{model.id}", at)
    return slot.name


def told(steps: list[Step]) -> list[tuple[str, ...]]:
    """Return the steps without their reasons."""
    short: list[tuple[str, ...]] = []
    for step in steps:
        match step:
            case Grant():
                short.append(("grant", step.request, step.slot))
            case Refuse():
                short.append(("refuse", step.request, step.code))
            case Load():
                short.append(("load", step.model, step.slot))
            case Drain():
                short.append(("drain", step.model, step.slot))
    return short
