"""Heartbeats: who is there, as others hear it."""

import asyncio

import pytest

from bus.heartbeat import beating, plain_beat
from bus.messages.presence import Heartbeat
from tests.support.nats import Server, connected


async def test_instance_is_heard_of_as_soon_as_it_beats(server: Server) -> None:
    async with connected(server.url) as hearer, connected(server.url) as speaker:
        async with beating(speaker, plain_beat("jobs.1", "jobs", {"url": "x"})), asyncio.timeout(60):
            await hearer.presence.until(bool)

    (beat,) = hearer.presence.instances
    assert (beat.instance, beat.role, beat.state, beat.detail) == ("jobs.1", "jobs", "ready", {"url": "x"})
    assert beat.rss_bytes > 0


async def test_instance_that_cannot_tell_how_it_stands_ends(server: Server) -> None:
    looks = 0
    sound = plain_beat("chat-1", "chat")

    async def look() -> Heartbeat:
        nonlocal looks
        looks += 1
        if looks > 2:
            raise ZeroDivisionError
        return await sound()

    async with connected(server.url) as bus, asyncio.timeout(60):
        with pytest.raises(ExceptionGroup) as group:
            async with beating(bus, look):
                await asyncio.Event().wait()

    assert group.group_contains(ZeroDivisionError)


async def test_instance_is_heard_of_again_when_the_server_is_back(server: Server) -> None:
    async with connected(server.url) as bus:
        await server.kill()
        async with beating(bus, plain_beat("chat-1", "chat")):
            await server.start()
            async with connected(server.url) as hearer, asyncio.timeout(60):
                await hearer.presence.until(bool)

    assert [beat.instance for beat in hearer.presence.instances] == ["chat-1"]
