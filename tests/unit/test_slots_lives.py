"""The scheduler of the slots: what time does, unloading, and what befalls slots."""

import pytest

from actors.slot_steps import Drain, Grant, Refuse, Rules
from actors.slots import Scheduler
from tests.support.slots import heavy, load, scheduler, told

# What time does, and what is kept


@pytest.mark.parametrize(
    ("ttl", "keep", "ends"),
    [
        (30.0, None, 30.0),
        (0.0, None, None),
        (-1.0, None, None),
        (30.0, 5.0, 5.0),
        (30.0, 0.0, 0.0),
        (30.0, -1.0, None),
        (0.0, 5.0, 5.0),
    ],
)
def test_an_idle_model_is_ended_after_its_ttl_or_what_the_last_request_said(
    ttl: float, keep: float | None, ends: float | None
) -> None:
    made = scheduler("s1")
    load(made, heavy("a", ttl=ttl), 100, keep=keep)

    if ends is None:
        assert made.tick(1e9) == []
    else:
        assert made.tick(99.9 + ends) == []
        assert told(made.tick(100 + ends)) == [("drain", "a", "s1")]


def test_neither_a_pinned_model_nor_one_with_work_is_ended_by_its_ttl() -> None:
    made = scheduler("s1", "s2")
    load(made, heavy("p", pinned=True, ttl=1.0))
    load(made, heavy("a", ttl=1.0))
    made.ask("a1", heavy("a"), 0)

    assert made.tick(1e9) == []


# Unloading


def test_unload_ends_also_a_pinned_model_with_work_and_nobody_is_let_in_any_more() -> None:
    made = scheduler("s1")
    load(made, heavy("p", pinned=True))
    made.ask("p1", heavy("p", pinned=True), 1)

    assert made.unload("p", "asked to", 2) == [Drain("s1", "p", "asked to")]
    assert made.unload("p", "asked to", 3) == []
    assert told(made.ask("p2", heavy("p", pinned=True), 3)) == []


def test_unload_while_loading_lets_those_in_who_wait_and_then_ends_the_model() -> None:
    made = scheduler("s1")
    made.ask("a1", heavy("a"), 0)

    assert made.unload("a", "asked to", 1) == []
    assert made.slot_ready("s1", 40, 2) == [Grant("a1", "s1"), Drain("s1", "a", "asked to")]


def test_unload_while_loading_ends_the_model_once_also_when_another_gets_its_place() -> None:
    made = scheduler("s1", max_overtaken=0)
    made.ask("a1", heavy("a"), 0)
    made.ask("b1", heavy("b"), 0)
    made.unload("a", "asked to", 1)

    assert told(made.slot_ready("s1", 40, 2)) == [("grant", "a1", "s1"), ("drain", "a", "s1")]


def test_what_unloading_frees_is_given_on_in_the_same_call() -> None:
    made = scheduler("s1", "s2")
    load(made, heavy("c", need_bytes=10))
    made.ask("a1", heavy("a", need_bytes=60), 0)
    made.unload("a", "asked to", 0)
    made.ask("b1", heavy("b", need_bytes=95), 1)

    assert told(made.slot_ready("s2", 60, 2)) == [("grant", "a1", "s2"), ("drain", "a", "s2"), ("drain", "c", "s1")]


# What befalls slots


def test_a_load_that_fails_refuses_all_who_wait_with_its_reason() -> None:
    made = scheduler("s1")
    made.ask("a1", heavy("a"), 0)
    made.ask("a2", heavy("a"), 0)

    assert made.slot_failed("s1", "invalid_request", "Bad.", 1) == [
        Refuse("a1", "a", "invalid_request", "Bad."),
        Refuse("a2", "a", "invalid_request", "Bad."),
    ]


def test_a_late_failure_does_not_end_a_model_that_is_ready() -> None:
    made = scheduler("s1")
    load(made, heavy("a"))

    assert made.slot_failed("s1", "timeout", "Late.", 1) == []
    assert told(made.ask("a1", heavy("a"), 2)) == [("grant", "a1", "s1")]


def test_a_model_whose_process_ends_three_times_while_loading_is_refused() -> None:
    made = scheduler("s1")
    made.ask("a1", heavy("a"), 0)
    for number in (1, 2):
        assert made.slot_gone(f"s{number}", number) == []
        assert told(made.slot_empty(f"s{number + 1}", number)) == [("load", "a", f"s{number + 1}")]

    assert told(made.slot_gone("s3", 3)) == [("refuse", "a1", "crashed")]


def test_who_asks_when_nobody_waits_any_more_has_three_attempts_again() -> None:
    made = scheduler("s1")
    made.ask("a1", heavy("a"), 0)
    for number in (1, 2):
        made.slot_gone(f"s{number}", number)
        made.slot_empty(f"s{number + 1}", number)
    made.release("a1", 3)
    made.ask("a2", heavy("a"), 4)

    assert made.slot_gone("s3", 5) == []
    assert told(made.slot_empty("s4", 6)) == [("load", "a", "s4")]


def test_a_slot_that_dies_takes_its_leases_along_and_the_next_one_serves() -> None:
    made = scheduler("s1")
    load(made, heavy("a"))
    made.ask("a1", heavy("a"), 1)
    made.ask("b1", heavy("b"), 1)

    assert made.slot_gone("s1", 2) == []
    assert made.used_bytes == 0
    assert told(made.slot_empty("s2", 3)) == [("load", "b", "s2")]
    assert made.release("a1", 4) == []


def test_a_model_that_has_grown_too_much_is_ended_once() -> None:
    made = scheduler("s1", growth_bytes=10)
    load(made, heavy("a", need_bytes=40))

    assert made.slot_works("s1", 0, 50, 1) == []
    assert told(made.slot_works("s1", 0, 51, 2)) == [("drain", "a", "s1")]
    assert made.slot_works("s1", 0, 52, 3) == []


def test_a_slot_that_drains_by_another_hand_takes_no_more() -> None:
    made = scheduler("s1")
    load(made, heavy("a"))
    made.slot_works("s1", 0, 40, 1, is_draining=True)

    assert told(made.ask("a1", heavy("a"), 2)) == []
    made.slot_gone("s1", 3)
    assert told(made.slot_empty("s2", 4)) == [("load", "a", "s2")]


def test_slot_that_comes_before_the_end_of_the_one_it_replaces_is_heard_of_is_no_further_one() -> None:
    made = scheduler("s1")
    load(made, heavy("a"))
    made.unload("a", "asked to", 1)
    made.slot_empty("s2", 2)
    made.slot_gone("s1", 3)
    load(made, heavy("b"), 4)

    assert told(made.ask("c1", heavy("c"), 5)) == [("drain", "b", "s2")]


# Slots that an earlier core had load something


def test_an_adopted_model_serves_and_is_charged() -> None:
    made = Scheduler(Rules(budget_bytes=100), expected=1)

    assert made.slot_adopted("s1", heavy("a"), 50, 0) == []
    assert made.used_bytes == 50
    assert told(made.ask("a1", heavy("a"), 1)) == [("grant", "a1", "s1")]


def test_an_adopted_model_is_not_loaded_again_for_those_who_had_a_claim() -> None:
    made = Scheduler(Rules(budget_bytes=100), expected=2)
    made.ask("a1", heavy("a"), 0)

    assert told(made.slot_adopted("s1", heavy("a"), 40, 1)) == [("grant", "a1", "s1")]
    assert made.slot_empty("s2", 2) == []


def test_an_adopted_model_that_another_slot_is_loading_is_ended() -> None:
    made = Scheduler(Rules(budget_bytes=100), expected=2)
    made.slot_empty("s1", 0)
    made.ask("a1", heavy("a"), 0)

    assert made.slot_adopted("s2", heavy("a"), 40, 1) == [Drain("s2", "a", "s1 has a as well")]
    assert told(made.slot_ready("s1", 40, 2)) == [("grant", "a1", "s1")]


def test_a_claim_on_a_place_that_an_adopted_model_takes_is_made_anew() -> None:
    made = Scheduler(Rules(budget_bytes=100, max_overtaken=0), expected=1)
    made.ask("a1", heavy("a"), 0)
    made.ask("b1", heavy("b"), 1)

    assert told(made.slot_adopted("s1", heavy("b"), 40, 2)) == [("drain", "b", "s1")]


def test_what_runs_on_an_adopted_slot_keeps_it_from_the_start() -> None:
    made = Scheduler(Rules(budget_bytes=100, min_residency=0.0), expected=1)
    made.ask("b1", heavy("b"), 1)

    assert told(made.slot_adopted("s1", heavy("a"), 40, 2, running=1)) == []
    assert told(made.slot_works("s1", 0, 40, 3)) == [("drain", "a", "s1")]
