"""The answering side: crashes, draining, cancels."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator

import nats.errors
import pytest
from nats.aio.msg import Msg

from bus.client import Bus, settled
from bus.errors import BusError, LostError, RefusedError
from bus.serve import Caller, Endpoint, Serving, serving
from tests.support.nats import COUNT_WORDS, SAY, Question, Server, Word, connected, plain_client, service, until


class Gated:
    """Says a word, waits at the gate, says another. Asked with times=0 it crashes."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked = 0
        self.cleaned = 0
        self.cleaning = asyncio.Event()
        self.may_clean = asyncio.Event()
        self.may_clean.set()

    async def receive(self, request: Question, _: Caller) -> AsyncGenerator[Word]:
        self.asked += 1
        try:
            yield Word(text="before")
            if request.times == 0:
                raise ZeroDivisionError
            await self.gate.wait()
            yield Word(text="after")
        finally:
            self.cleaning.set()
            await self.may_clean.wait()
            self.cleaned += 1


async def say(bus: Bus, **question: int) -> list[str]:
    async with bus.stream(SAY("m"), Question(**question)) as answer:
        return [item.text async for item in answer if isinstance(item, Word)]


async def code_of(asking: asyncio.Task[list[str]]) -> str:
    try:
        await asking
    except BusError as error:
        return error.code
    return "completed"


async def serve(bus: Bus, actor: Gated, ready: asyncio.Event) -> None:
    async with serving(bus, service(), Endpoint(SAY("m"), actor.receive)):
        ready.set()
        await asyncio.Event().wait()


async def test_crash_is_told_to_its_asker_and_to_the_others_and_to_the_supervisor(server: Server) -> None:
    actor, ready = Gated(), asyncio.Event()
    async with connected(server.url) as bus:
        serve_task = asyncio.create_task(serve(bus, actor, ready))
        await ready.wait()
        others = [asyncio.create_task(say(bus)) for _ in range(3)]
        await until(lambda: actor.asked == 3)
        with pytest.raises(LostError) as crashed:
            await say(bus, times=0)
        codes = [await code_of(other) for other in others]
        with pytest.raises(ExceptionGroup) as group:
            await serve_task

    assert crashed.value.code == "crashed"
    assert codes == ["restarting"] * 3
    assert group.group_contains(ZeroDivisionError)
    assert actor.cleaned == 4


async def test_request_that_comes_while_a_crashed_actor_cleans_up_is_answered(server: Server) -> None:
    async def stop_slowly() -> None:
        async with serving(bus, service(), Endpoint(SAY("m"), actor.receive)):
            ready.set()
            try:
                await asyncio.Event().wait()
            finally:
                await late.wait()  # as a worker that drains its jobs

    actor, ready, late = Gated(), asyncio.Event(), asyncio.Event()
    async with connected(server.url) as bus:
        serve_task = asyncio.create_task(stop_slowly())
        await ready.wait()
        with pytest.raises(LostError):
            await say(bus, times=0)
        code = await code_of(asyncio.create_task(say(bus)))
        late.set()
        with pytest.raises(ExceptionGroup):
            await serve_task

    assert code == "restarting"


async def test_request_that_was_not_begun_when_the_actor_crashes_is_answered(server: Server) -> None:
    actor, ready = Gated(), asyncio.Event()
    async with connected(server.url) as bus:
        serve_task = asyncio.create_task(serve(bus, actor, ready))
        await ready.wait()
        asking = [asyncio.create_task(say(bus, times=0)) for _ in range(20)]
        codes = {await code_of(task) for task in asking}
        with pytest.raises(ExceptionGroup):
            await serve_task

    assert codes <= {"crashed", "restarting", "unavailable"}


async def test_service_whose_start_loses_the_server_answers_when_that_is_back(server: Server) -> None:
    actor, ready = Gated(), asyncio.Event()
    actor.gate.set()
    async with connected(server.url) as bus:
        await server.freeze()
        serve_task = asyncio.create_task(serve(bus, actor, ready))
        await until(lambda: bus.nc._pongs)
        await server.kill()
        await server.start()
        await until(lambda: ready.is_set() or serve_task.done())
        words = await say(bus)
        serve_task.cancel()
        await asyncio.wait((serve_task,))

    assert words == ["before", "after"]


async def test_asker_hears_that_the_message_server_did_not_answer_the_actor(server: Server) -> None:
    async def receive(_request: Question, _: Caller) -> AsyncGenerator[Word]:
        yield Word(text="before")
        raise nats.errors.FlushTimeoutError

    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), receive)):
        codes = [await code_of(asyncio.create_task(say(bus))) for _ in range(2)]

    assert codes == ["unavailable"] * 2


async def test_running_request_finishes_within_the_drain_time(server: Server) -> None:
    actor = Gated()
    async with connected(server.url) as bus:
        async with serving(bus, service(), Endpoint(SAY("m"), actor.receive), drain=20):
            asking = asyncio.create_task(say(bus))
            await until(lambda: actor.asked == 1)
            opening = asyncio.create_task(open_when_nobody_listens(bus, actor))
        words = await asking
        await opening

    assert words == ["before", "after"]


async def open_when_nobody_listens(bus: Bus, actor: Gated) -> None:
    async def is_gone() -> bool:
        try:
            await bus.nc.request(SAY("m").name, b"not a request", timeout=60)
        except nats.errors.NoRespondersError:
            return True
        return False

    async with asyncio.timeout(60):
        while not await is_gone():
            pass
    actor.gate.set()


async def test_service_does_not_wait_for_a_server_that_is_away_when_it_stops(server: Server) -> None:
    async with connected(server.url) as bus:
        async with serving(bus, service(), Endpoint(SAY("m"), Gated().receive)):
            await server.kill()
            begun = time.monotonic()
        seconds = time.monotonic() - begun

    assert seconds < 4  # It would wait five.


async def test_service_that_stops_while_the_server_is_away_leaves_nothing_behind(server: Server) -> None:
    actor, ready = Gated(), asyncio.Event()
    async with connected(server.url) as bus, plain_client(server.url) as nc:
        await server.kill()
        serve_task = asyncio.create_task(serve(bus, actor, ready))
        await until(lambda: bus.nc._pending)
        serve_task.cancel()
        await asyncio.wait((serve_task,))
        await server.start()
        await settled(bus.nc)
        await settled(nc)
        with pytest.raises(LostError) as lost:
            await say(bus)
        with pytest.raises(nats.errors.NoRespondersError):
            await nc.request("$SRV.PING.test", timeout=10)

    assert lost.value.code == "unavailable"


async def test_request_that_outlasts_the_drain_time_is_cancelled(server: Server) -> None:
    actor = Gated()
    async with connected(server.url) as bus:
        async with serving(bus, service(), Endpoint(SAY("m"), actor.receive), drain=0.05):
            asking = asyncio.create_task(say(bus))
            await until(lambda: actor.asked == 1)
        code = await code_of(asking)

    assert code == "unavailable"
    assert actor.cleaned == 1


async def test_every_request_is_answered_while_services_stop_and_start(server: Server) -> None:
    actor, codes, stopped = Gated(), Counter[str](), False
    actor.gate.set()

    async def ask_on() -> None:
        while not stopped:
            codes[await code_of(asyncio.create_task(say(asker)))] += 1

    async with connected(server.url, "asker") as asker, connected(server.url, "actor") as bus:
        askers = [asyncio.create_task(ask_on()) for _ in range(20)]
        for _ in range(10):
            goal = actor.asked + 50
            async with serving(bus, service(), Endpoint(SAY("m"), actor.receive), drain=20):
                await until(lambda: actor.asked > goal)  # noqa: B023 - awaited here
        stopped = True
        await asyncio.gather(*askers)

    assert codes["completed"] > 500
    assert set(codes) <= {"completed", "unavailable"}


async def test_requests_cancelled_when_the_service_stops_at_once_are_still_answered(server: Server) -> None:
    actor = Gated()
    async with connected(server.url, "asker") as asker, connected(server.url, "actor") as bus:
        async with serving(bus, service(), Endpoint(SAY("m"), actor.receive)):
            asking = [asyncio.create_task(say(asker)) for _ in range(100)]
            await until(lambda: actor.asked > 0)
        codes = {await code_of(task) for task in asking}

    assert codes == {"unavailable"}


async def test_cancels_that_come_again_leave_the_clean_up_alone(server: Server) -> None:
    actor = Gated()
    actor.may_clean.clear()
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), actor.receive)):
        async with bus.stream(SAY("m"), Question()) as answer:
            await anext(answer)
            for _ in range(3):
                await bus.nc.publish(answer.cancel_subject)
            await actor.cleaning.wait()
            await bus.nc.publish(answer.cancel_subject)
            await settled(bus.nc)
            actor.may_clean.set()
            with pytest.raises(RefusedError) as refused:
                await anext(answer)

    assert refused.value.code == "cancelled"
    assert actor.cleaned == 1


async def test_who_was_away_for_a_moment_is_told_to_ask_again(server: Server) -> None:
    actor = Gated()
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), actor.receive)):
        async with bus.stream(SAY("m"), Question()) as answer:
            await anext(answer)
            # As the server says it of a frame that it cannot deliver.
            await bus.nc.publish(answer.cancel_subject, headers={"Status": "503"})
            with pytest.raises(LostError) as lost:
                await anext(answer)

    assert (lost.value.code, lost.value.failure.retry_after) == ("unavailable", 1)


async def test_plain_nats_client_is_answered_in_frames_with_an_end(server: Server) -> None:
    actor = Gated()
    actor.gate.set()
    async with (
        connected(server.url) as bus,
        serving(bus, service(), Endpoint(SAY("m"), actor.receive)),
        plain_client(server.url) as nc,
    ):
        inbox = await nc.subscribe("my.inbox")
        await nc.publish("fusion.say.m", b"{}", reply="my.inbox")
        messages = [await inbox.next_msg(timeout=60) for _ in range(3)]

    assert [json.loads(msg.data) for msg in messages[:2]] == [
        {"seq": 0, "data": {"text": "before"}},
        {"seq": 1, "data": {"text": "after"}},
    ]
    assert messages[2].data == b""
    assert messages[2].headers == {"Fusion-End": "done", "Fusion-Count": "2"}


async def test_plain_nats_client_is_refused_by_the_headers_of_micro_services(server: Server) -> None:
    actor = Gated()
    async with (
        connected(server.url) as bus,
        serving(bus, service(), Endpoint(COUNT_WORDS("m"), actor.receive)),
        plain_client(server.url) as nc,
    ):
        reply = await nc.request("fusion.count.m", b'{"color": 1}', timeout=60)

    assert reply.headers is not None
    assert reply.headers["Nats-Service-Error-Code"] == "unsupported_parameter"
    assert reply.headers["Nats-Service-Error"] == "Object contains unknown field `color`."
    assert json.loads(reply.data)["param"] == "color"


async def test_request_without_a_reply_subject_is_survived(server: Server) -> None:
    actor = Gated()
    actor.gate.set()
    async with (
        connected(server.url) as bus,
        serving(bus, service(), Endpoint(SAY("m"), actor.receive), Endpoint(COUNT_WORDS("m"), actor.receive)),
        plain_client(server.url) as nc,
    ):
        await nc.publish("fusion.say.m", b"{}")
        await nc.publish("fusion.count.m", b"{}")
        await nc.publish("fusion.count.m", b"nonsense")
        await settled(nc)
        words = await say(bus)

    assert words == ["before", "after"]


@pytest.mark.parametrize("by", ["reply subject", "request id"])
async def test_request_is_cancelled_by_a_message_published_by_hand(server: Server, by: str) -> None:
    actor = Gated()
    async with (
        connected(server.url) as bus,
        serving(bus, service(), Endpoint(SAY("m"), actor.receive)),
        plain_client(server.url) as nc,
    ):
        inbox = await nc.subscribe("my.inbox")
        await nc.publish("fusion.say.m", b"{}", reply="my.inbox", headers={"Fusion-Request-Id": "my id.1"})
        first = await inbox.next_msg(timeout=60)
        by_hand = first.reply if by == "reply subject" else "fusion.control.test-1.cancel.my%20id%2E1"
        await nc.publish(by_hand)
        end: Msg = await inbox.next_msg(timeout=60)

    assert end.headers is not None
    assert end.headers["Nats-Service-Error-Code"] == "cancelled"
    assert actor.cleaned == 1


async def test_stopping_may_be_given_up(server: Server) -> None:
    served: list[Serving] = []

    async def serve_for_ever(bus: Bus) -> None:
        async with serving(bus, service(), Endpoint(SAY("m"), Gated().receive)) as one:
            served.append(one)
            await asyncio.Event().wait()

    async with connected(server.url) as bus:
        stopping = asyncio.create_task(serve_for_ever(bus))
        await until(lambda: served)
        stopping.cancel()
        while not bus.nc._pongs:
            await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await settled(bus.nc)

        assert bus.nc.stats["reconnects"] == 0
