"""Collation saves swaps: the same 200 requests by the default rules, and first come, first served."""

from random import Random

from actors.slot_steps import Heavy, Rules
from tests.support.slot_world import World

STEP = 0.5


def serve(rules: Rules, requests: int = 200) -> tuple[int, float]:
    """Serve requests for three models on two slots; return the number of loads, and how long it took in seconds."""
    draw = Random(4)  # noqa: S311 - a simulation, the same each time
    world = World(rules, [Heavy(id=model, need_bytes=40) for model in "abc"], slots=2)
    arrivals = sorted((draw.uniform(0.0, 120.0), draw.choice("abc"), draw.uniform(1.0, 8.0)) for _ in range(requests))
    load_seconds = {model: draw.uniform(4.0, 12.0) for model in "abc"}
    lasts: dict[str, float] = {}
    ends: dict[str, float] = {}
    begun = world.now
    while arrivals or world.waiting or world.granted:
        world.tick(STEP)
        while arrivals and begun + arrivals[0][0] <= world.now:
            _, model, seconds = arrivals.pop(0)
            lasts[world.ask(model)] = seconds
        for process in world.in_state("loading"):
            if process.model and world.now - process.since >= load_seconds[process.model.id]:
                world.loaded(process.name, 40)
        for request in list(world.granted):
            if ends.setdefault(request, world.now + lasts[request]) <= world.now:
                world.release(request)
        for process in world.in_state("draining"):
            if not process.leases:
                world.ends(process.name)
        while world.coming:
            world.comes()
    assert not world.refused
    return world.loads, world.now - begun


def test_the_default_rules_swap_models_several_times_less_than_first_come_first_served() -> None:
    loads, seconds = serve(Rules(budget_bytes=100))
    loads_in_turn, seconds_in_turn = serve(Rules(budget_bytes=100, max_overtaken=0))

    assert loads * 5 <= loads_in_turn
    assert seconds * 2 <= seconds_in_turn
