"""The scheduler of the slots: each branch of its decision tree, told in a few calls."""

import pytest

from actors.slot_steps import Grant, Refuse, Rules
from actors.slots import Scheduler
from tests.support.slots import heavy, load, scheduler, told

# 1, granting


def test_a_request_for_a_ready_model_is_granted_at_once() -> None:
    made = scheduler("s1")
    load(made, heavy("a"))

    assert made.ask("r", heavy("a"), 1) == [Grant("r", "s1")]


def test_work_for_the_loaded_model_goes_together_past_an_older_request_for_another() -> None:
    made = scheduler("s1", max_overtaken=2)
    load(made, heavy("a"))
    made.ask("a1", heavy("a"), 1)
    made.ask("b1", heavy("b"), 2)

    assert told(made.ask("a2", heavy("a"), 3)) == [("grant", "a2", "s1")]
    assert told(made.ask("a3", heavy("a"), 4)) == [("grant", "a3", "s1"), ("drain", "a", "s1")]
    assert told(made.ask("a4", heavy("a"), 5)) == []


def test_first_come_first_served_is_max_overtaken_0() -> None:
    made = scheduler("s1", max_overtaken=0)
    load(made, heavy("a"))
    made.ask("a1", heavy("a"), 1)

    assert told(made.ask("b1", heavy("b"), 2)) == [("drain", "a", "s1")]
    assert told(made.ask("a2", heavy("a"), 3)) == []
    assert told(made.release("a1", 4)) == []
    made.slot_gone("s1", 5)
    assert told(made.slot_empty("s2", 6)) == [("load", "b", "s2")]
    assert told(made.slot_ready("s2", 40, 7)) == [("grant", "b1", "s2"), ("drain", "b", "s2")]


def test_a_pinned_model_is_granted_past_everybody_for_nobody_else_could_have_its_slot() -> None:
    made = scheduler("s1", "s2", max_overtaken=0)
    load(made, heavy("a", pinned=True))
    made.ask("b1", heavy("b"), 1)
    made.ask("c1", heavy("c"), 2)

    assert told(made.ask("a1", heavy("a", pinned=True), 3)) == [("grant", "a1", "s1")]


def test_by_the_policy_manual_a_ready_model_is_granted_past_everybody() -> None:
    made = scheduler("s1", "s2", max_overtaken=0, policy="manual")
    load(made, heavy("a"))
    made.ask("b1", heavy("b"), 1)
    made.ask("c1", heavy("c"), 2)

    assert told(made.ask("a1", heavy("a"), 3)) == [("grant", "a1", "s1")]


def test_those_who_were_held_back_go_on_as_soon_as_the_older_one_has_a_place() -> None:
    made = scheduler("s1", "s2", max_overtaken=0)
    load(made, heavy("a", need_bytes=30))
    made.ask("b1", heavy("b", need_bytes=60), 1)
    assert told(made.ask("c1", heavy("c", need_bytes=70), 2)) == []
    assert told(made.ask("a1", heavy("a", need_bytes=30), 3)) == []

    assert told(made.release("c1", 4)) == [("grant", "a1", "s1")]


# 2, single flight


def test_a_model_is_loaded_once_for_all_who_ask() -> None:
    made = scheduler("s1", "s2")

    assert told(made.ask("a1", heavy("a"), 0)) == [("load", "a", "s1")]
    assert told(made.ask("a2", heavy("a"), 1)) == []
    assert told(made.slot_ready("s1", 40, 2)) == [("grant", "a1", "s1"), ("grant", "a2", "s1")]


def test_a_model_with_a_claim_takes_only_one_of_the_slots_that_come() -> None:
    made = Scheduler(Rules(budget_bytes=100), expected=2)
    made.ask("a1", heavy("a"), 0)
    made.ask("a2", heavy("a"), 0)

    assert told(made.slot_empty("s1", 1)) == [("load", "a", "s1")]
    assert told(made.slot_empty("s2", 2)) == []


# 3, what can never fit


@pytest.mark.parametrize("kept", ["warm", "pinned"])
def test_what_cannot_fit_beside_the_warm_and_the_pinned_is_refused(kept: str) -> None:
    made = scheduler("s1", "s2")
    if kept == "warm":
        made.warm_bytes = 40
    else:
        load(made, heavy("p", pinned=True))

    (step,) = made.ask("r", heavy("big", need_bytes=70), 1)

    assert isinstance(step, Refuse)
    assert step.code == "insufficient_memory"
    assert "what stays loaded takes" in step.why


def test_a_request_is_refused_when_every_slot_has_a_pinned_model() -> None:
    made = scheduler("s1")
    load(made, heavy("p", need_bytes=10, pinned=True))

    assert made.ask("r", heavy("a"), 1) == [
        Refuse("r", "a", "insufficient_memory", "Every slot has a pinned model: p.")
    ]


def test_a_request_is_refused_when_there_are_no_slots() -> None:
    assert told(scheduler().ask("r", heavy("a"), 0)) == [("refuse", "r", "insufficient_memory")]


def test_a_request_is_refused_when_too_many_wait_for_its_model() -> None:
    made = scheduler("s1", max_waiting=2)
    made.ask("a1", heavy("a"), 0)
    made.ask("a2", heavy("a"), 0)

    assert told(made.ask("a3", heavy("a"), 0)) == [("refuse", "a3", "queue_full")]
    assert told(made.ask("b1", heavy("b"), 0)) == []
    assert made.waiting("a") == ("a1", "a2")


# 4 and 7, a place and memory


def test_a_claim_waits_for_the_memory_of_what_is_ending() -> None:
    made = scheduler("s1", "s2", "s3")
    load(made, heavy("a", need_bytes=60))
    made.unload("a", "asked to", 1)

    assert told(made.ask("b1", heavy("b", need_bytes=60), 2)) == []
    assert told(made.ask("c1", heavy("c", need_bytes=40), 2)) == [("load", "c", "s2")]
    assert told(made.slot_gone("s1", 3)) == [("load", "b", "s3")]


def test_a_claim_that_nobody_waits_for_is_dropped() -> None:
    made = Scheduler(Rules(budget_bytes=100), expected=1)
    made.ask("a1", heavy("a"), 0)
    made.release("a1", 1)

    assert made.slot_empty("s1", 2) == []


def test_a_model_may_use_all_that_was_estimated_for_it_whatever_it_takes_just_now() -> None:
    made = scheduler("s1", "s2")
    load(made, heavy("a", need_bytes=60))
    made.slot_works("s1", 1, 20, 1)

    assert told(made.ask("b1", heavy("b", need_bytes=60), 2)) == []
    assert made.used_bytes == 60


def test_a_model_that_takes_more_than_was_estimated_is_charged_for_it() -> None:
    made = scheduler("s1", "s2")
    load(made, heavy("a", need_bytes=40))
    made.slot_works("s1", 1, 50, 1)

    assert told(made.ask("b1", heavy("b", need_bytes=60), 2)) == []
    assert made.used_bytes == 50


# 5, whom to end


def test_the_model_that_was_used_longest_ago_is_ended() -> None:
    made = scheduler("s1", "s2")
    load(made, heavy("a"), 1)
    load(made, heavy("b"), 2)
    made.ask("a1", heavy("a"), 3)
    made.release("a1", 4)

    assert told(made.ask("c1", heavy("c"), 5)) == [("drain", "b", "s2")]


def test_each_of_two_who_wait_is_given_a_place_of_its_own() -> None:
    made = scheduler("s1", "s2")
    load(made, heavy("a"), 1)
    load(made, heavy("b"), 2)

    assert told(made.ask("c1", heavy("c"), 3)) == [("drain", "a", "s1")]
    assert told(made.ask("d1", heavy("d"), 3)) == [("drain", "b", "s2")]


def test_by_the_policy_priority_the_model_of_lowest_priority_is_ended() -> None:
    made = scheduler("s1", "s2", policy="priority")
    load(made, heavy("a", priority="high"), 1)
    load(made, heavy("b", priority="low"), 2)

    assert told(made.ask("c1", heavy("c"), 3)) == [("drain", "b", "s2")]


def test_by_the_policy_manual_nothing_is_ended_and_who_finds_no_room_is_refused() -> None:
    made = scheduler("s1", policy="manual")
    load(made, heavy("a"))

    assert told(made.ask("b1", heavy("b"), 1)) == [("refuse", "b1", "insufficient_memory")]


def test_by_the_policy_manual_a_request_waits_while_a_slot_changes() -> None:
    made = scheduler("s1", policy="manual")
    made.ask("a1", heavy("a"), 0)

    assert told(made.ask("b1", heavy("b"), 1)) == []
    assert told(made.slot_failed("s1", "invalid_request", "Bad.", 2)) == [("refuse", "a1", "invalid_request")]
    made.slot_gone("s1", 3)
    assert told(made.slot_empty("s2", 4)) == [("load", "b", "s2")]


def test_enough_models_are_ended_for_a_large_one_and_not_one_more() -> None:
    made = scheduler("s1", "s2", "s3")
    load(made, heavy("a", need_bytes=10), 1)
    load(made, heavy("b", need_bytes=50), 2)
    load(made, heavy("c", need_bytes=30), 3)

    assert told(made.ask("big", heavy("d", need_bytes=55), 4)) == [("drain", "b", "s2")]


def test_a_model_is_not_ended_before_it_has_had_its_residency() -> None:
    made = scheduler("s1", min_residency=10.0)
    load(made, heavy("a"), 0)

    assert told(made.ask("b1", heavy("b"), 9)) == []
    assert told(made.tick(10)) == [("drain", "a", "s1")]


def test_a_model_with_work_is_ended_for_one_who_has_waited_for_long_and_first_finishes() -> None:
    made = scheduler("s1", max_overtaken_seconds=60.0)
    load(made, heavy("a"), 0)
    made.ask("a1", heavy("a"), 0)
    made.ask("b1", heavy("b"), 0)

    assert told(made.tick(59)) == []
    assert told(made.tick(60)) == [("drain", "a", "s1")]
    assert told(made.ask("a2", heavy("a"), 61)) == []


def test_work_that_no_lease_covers_keeps_a_model_too() -> None:
    made = scheduler("s1")
    load(made, heavy("a"), 0)
    made.slot_works("s1", 1, 40, 1)

    assert told(made.ask("b1", heavy("b"), 2)) == []
    assert told(made.slot_works("s1", 0, 40, 3)) == [("drain", "a", "s1")]


def test_a_model_that_held_back_requests_wait_for_is_not_ended_for_one_who_has_time() -> None:
    made = scheduler("s1", "s2", "s3", max_overtaken=1)
    load(made, heavy("a", need_bytes=10))
    made.ask("x1", heavy("x", need_bytes=60), 0)
    made.ask("b1", heavy("b", need_bytes=80), 1)
    made.ask("a1", heavy("a", need_bytes=10), 2)
    made.release("a1", 3)
    assert told(made.ask("a2", heavy("a", need_bytes=10), 4)) == []
    assert told(made.ask("z1", heavy("z", need_bytes=15), 4)) == []

    assert told(made.slot_ready("s2", 60, 5)) == [("grant", "x1", "s2"), ("drain", "x", "s2"), ("grant", "a2", "s1")]


# 6, waiting


def test_while_one_waits_who_was_overtaken_too_often_nobody_younger_is_given_a_place() -> None:
    made = scheduler("s1", "s2", max_overtaken=0)
    made.ask("a1", heavy("a", need_bytes=60), 0)

    assert told(made.ask("b1", heavy("b", need_bytes=80), 1)) == []
    assert told(made.ask("c1", heavy("c", need_bytes=10), 2)) == []
    assert told(made.slot_ready("s1", 60, 3)) == [("grant", "a1", "s1"), ("drain", "a", "s1"), ("load", "c", "s2")]
