"""A request that one answerer hands on to another."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from nats.aio.msg import Msg

from bus.client import settled
from bus.errors import LostError
from bus.frames import Status
from bus.serve import Caller, Endpoint, serving
from bus.subjects import CANCEL, fill
from bus.writer import HandOn
from tests.support.nats import COUNT_WORDS, SAY, Question, Server, Word, connected, service, until

PLACE = SAY.at("m", "slot-1")
LEASE = "fusion.control.test-door.released.lease-1"


def hand_on(subject: str) -> HandOn:
    cancel = fill(CANCEL, "slot-1", "lease-1")
    return HandOn(subject=subject, lease=LEASE, cancel=cancel, status=Status(instance="slot-1"))


class Door:
    """Says how it stands, waits at its gate, and hands on to `subject`."""

    def __init__(self, subject: str = PLACE.name) -> None:
        self.gate = asyncio.Event()
        self.let_in = 0
        self.kept = 0
        self._subject = subject

    async def receive(self, _: Question, __: Caller) -> AsyncGenerator[Word | Status | HandOn]:
        handed_on = False
        try:
            yield Status(instance="test-door", position=1)
            await self.gate.wait()
            yield hand_on(self._subject)
            handed_on = True
        finally:
            self.let_in += handed_on
            self.kept += not handed_on


async def speak(request: Question, _: Caller) -> AsyncGenerator[Word | Status]:
    yield Status(instance="slot-1")
    for word in request.words:
        yield Word(text=word)


async def test_who_asks_gets_one_answer_from_both(server: Server) -> None:
    door, released = Door(), list[Msg]()
    door.gate.set()

    async def on_released(msg: Msg) -> None:
        released.append(msg)

    async with (
        connected(server.url) as bus,
        serving(bus, service("door"), Endpoint(SAY("m"), door.receive)),
        serving(bus, service("slot"), Endpoint(PLACE, speak)),
    ):
        await bus.nc.subscribe(LEASE, cb=on_released)
        async with bus.stream(SAY("m"), Question()) as answer:
            items = [item async for item in answer]
        await until(lambda: door.let_in and released)

    assert items[:2] == [Status(instance="test-door", position=1), Status(instance="slot-1")]
    assert [item.text for item in items if isinstance(item, Word)] == ["one", "two", "three"]
    assert (door.let_in, door.kept, len(released)) == (1, 0, 1)


async def test_unstreamed_request_is_handed_on_too(server: Server) -> None:
    place = COUNT_WORDS.at("m", "slot-1")

    async def let_in(_: Question, __: Caller) -> AsyncGenerator[HandOn]:
        yield hand_on(place.name)

    async def count(request: Question, _: Caller) -> AsyncGenerator[Word]:
        yield Word(text=str(len(request.words)))

    async with (
        connected(server.url) as bus,
        serving(bus, service("door"), Endpoint(COUNT_WORDS("m"), let_in)),
        serving(bus, service("slot"), Endpoint(place, count)),
    ):
        reply = await bus.ask(COUNT_WORDS("m"), Question())

    assert reply.text == "3"


async def test_who_leaves_before_is_not_handed_on(server: Server) -> None:
    door = Door()
    async with connected(server.url) as bus, serving(bus, service("door"), Endpoint(SAY("m"), door.receive)):
        async with bus.stream(SAY("m"), Question()) as answer:
            await anext(answer)
        await until(lambda: door.kept)

    assert door.let_in == 0


async def test_who_leaves_after_ends_the_work_where_it_is_by_now(server: Server) -> None:
    door, closed, released = Door(), asyncio.Event(), asyncio.Event()
    door.gate.set()

    async def never(_: Question, __: Caller) -> AsyncGenerator[Word]:
        try:
            yield Word(text="one")
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def on_released(_: Msg) -> None:
        released.set()

    async with (
        connected(server.url) as bus,
        serving(bus, service("door"), Endpoint(SAY("m"), door.receive)),
        serving(bus, service("slot"), Endpoint(PLACE, never)),
    ):
        await bus.nc.subscribe(LEASE, cb=on_released)
        await settled(bus.nc)
        async with bus.stream(SAY("m"), Question()) as answer:
            while not isinstance(await anext(answer), Word):
                pass
        await until(lambda: door.let_in and closed.is_set() and released.is_set())

    assert (door.let_in, door.kept) == (1, 0)


async def test_a_place_that_is_gone_is_unavailable(server: Server) -> None:
    door = Door()
    door.gate.set()
    async with connected(server.url) as bus, serving(bus, service("door"), Endpoint(SAY("m"), door.receive)):
        async with bus.stream(SAY("m"), Question()) as answer:
            with pytest.raises(LostError) as lost:
                async for _ in answer:
                    pass

    assert lost.value.code == "unavailable"


async def test_what_grows_too_large_on_the_way_stays_and_is_refused(server: Server) -> None:
    door = Door()
    door.gate.set()
    async with connected(server.url) as bus, serving(bus, service("door"), Endpoint(SAY("m"), door.receive)):
        whole = '{"words":["' + "x" * (bus.nc.max_payload - 60) + '"]}'
        inbox = bus.nc.new_inbox()
        subscription = await bus.nc.subscribe(inbox)
        await bus.nc.publish(SAY("m").name, whole.encode(), reply=inbox)
        while not (end := await subscription.next_msg(60)).headers:
            pass

    assert (end.headers or {})["Nats-Service-Error-Code"] == "too_large"
    assert (door.let_in, door.kept) == (0, 1)
