"""Who is there."""

import asyncio

import msgspec
import pytest

from bus.messages.presence import Heartbeat
from bus.presence import Presence


def beat(instance: str = "chat-1", state: str = "ready", **fields: object) -> bytes:
    values = {"instance": instance, "role": "chat", "state": state, "pid": 1, "at": 0.0}
    return msgspec.json.encode(values | fields)


def names(presence: Presence) -> list[str]:
    return [one.instance for one in presence.instances]


def test_last_heartbeat_of_each_counts() -> None:
    presence = Presence(silence=5)

    presence.receive(beat("a", "starting"), 1)
    presence.receive(beat("b"), 2)
    presence.receive(beat("a", "ready"), 3)

    assert {one.instance: one.state for one in presence.instances} == {"a": "ready", "b": "ready"}


def test_instance_that_is_down_is_gone_at_once() -> None:
    presence = Presence(silence=5)
    presence.receive(beat("a"), 1)

    heard = presence.receive(beat("a", "down"), 2)
    presence.receive(beat("never-heard", "down"), 2)

    assert isinstance(heard, Heartbeat)
    assert names(presence) == []


def test_silent_instance_is_forgotten_and_told_once() -> None:
    presence = Presence(silence=5)
    presence.receive(beat("a"), 1)
    presence.receive(beat("b"), 4)

    assert presence.forget_silent(6) == []
    assert presence.forget_silent(6.1) == ["a"]
    assert presence.forget_silent(6.2) == []
    assert names(presence) == ["b"]


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b'{"instance":5}', beat(state="odd")])
def test_heartbeat_that_cannot_be_read_is_left_out(payload: bytes) -> None:
    presence = Presence(silence=5)

    assert presence.receive(payload, 1) is None
    assert presence.instances == ()


def test_heartbeat_of_a_later_version_is_heard() -> None:
    presence = Presence(silence=5)

    presence.receive(beat("a", mood="fine"), 1)

    assert names(presence) == ["a"]


async def test_waiting_ends_with_the_heartbeat_that_makes_it_so() -> None:
    presence = Presence(silence=5)
    waiting = asyncio.create_task(presence.until(lambda found: len(found) == 2))
    await asyncio.sleep(0)
    presence.receive(beat("a"), 1)
    await asyncio.sleep(0)
    early = waiting.done()
    presence.receive(beat("b"), 1)
    async with asyncio.timeout(10):
        await waiting

    assert not early
