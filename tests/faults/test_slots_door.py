"""Who waits before a heavy model: refused in time, and forgotten when it leaves."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from tests.support.heavy import ONE, TWO, Heavy, heavy_up
from tests.support.nats import until_it

WAITING = "slots: 1, min_residency: 0, max_queue_size: 1, queue_timeout: 12"
CHAT = {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 4}


async def is_loaded(fusion: Heavy) -> bool:
    """Have it loaded: who orders that waits no longer either."""
    return await fusion.load(ONE) == 200


async def test_those_who_wait_are_refused_in_time_and_forgotten_when_they_leave(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        fusion = await stack.enter_async_context(heavy_up(tmp_path, WAITING))
        await until_it(partial(is_loaded, fusion))
        one = await stack.enter_async_context(fusion.story(ONE))
        body = CHAT | {"model": TWO}
        async with fusion.http.post("/v1/chat/completions", json=body | {"stream": True}) as leaving:
            comment = await leaving.content.readuntil(b"\n\n")
            await fusion.until_states({TWO: "waiting"})
            leaving.close()
        await fusion.until_states({ONE: "ready", TWO: "unloaded"})

        late = asyncio.create_task(fusion.ask(TWO))
        await fusion.until_states({TWO: "waiting"})
        full = await fusion.ask(TWO)
        unknown = await fusion.ask("org/nobody")
        timed_out = await late
        await one.more(20)
        after = await fusion.states()
        leases = await fusion.leases()

    assert comment.startswith((b": queued ", b": loading "))
    assert [(status, answer["error"]["code"]) for status, answer in (full, unknown, timed_out)] == [
        (429, "queue_full"),
        (404, "model_not_found"),
        (503, "queue_timeout"),
    ]
    assert (after[ONE], after[TWO]) == ("ready", "unloaded")
    assert (leases[ONE], leases[TWO]) == (1, 0)
