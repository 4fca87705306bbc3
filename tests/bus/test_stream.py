"""Answers in pieces."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from bus.client import settled
from bus.errors import LostError, RefusedError
from bus.frames import Status
from bus.messages.presence import Heartbeat
from bus.serve import Caller, Endpoint, serving
from bus.subjects import HEARTBEAT, fill
from tests.support.nats import SAY, Question, Server, Word, connected, service, until

REPOSITORY = Path(__file__).parents[2]


class Speaker:
    """Says the words asked for, then waits at the gate when it has one."""

    def __init__(self, *, gated: bool = False, error: Exception | None = None) -> None:
        self.gate = asyncio.Event()
        self.closed = asyncio.Event()
        self.running = 0
        self._error = error
        if not gated:
            self.gate.set()

    async def receive(self, request: Question, _: Caller) -> AsyncGenerator[Word | Status]:
        self.running += 1
        try:
            yield Status(instance="test-1")
            for _ in range(request.times):
                for word in request.words:
                    yield Word(text=word)
            if self._error:
                raise self._error
            await self.gate.wait()
        finally:
            self.running -= 1
            self.closed.set()


class Endless:
    """Says a word every few milliseconds until it is closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def receive(self, _: Question, __: Caller) -> AsyncGenerator[Word]:
        try:
            while True:
                yield Word(text="on")
                await asyncio.sleep(0.002)
        finally:
            self.closed.set()


async def test_pieces_come_in_order_after_the_status(server: Server) -> None:
    words = tuple(map(str, range(500)))
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), Speaker().receive)):
        async with bus.stream(SAY("m"), Question(words=words)) as answer:
            items = [item async for item in answer]

    assert items[0] == Status(instance="test-1")
    assert [item.text for item in items[1:] if isinstance(item, Word)] == list(words)


async def test_many_streams_at_once_share_one_inbox_without_mixing(server: Server) -> None:
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), Speaker().receive)):

        async def ask(n: int) -> list[str]:
            async with bus.stream(SAY("m"), Question(words=(f"{n}a", f"{n}b"), times=20)) as answer:
                return [item.text async for item in answer if isinstance(item, Word)]

        answers = await asyncio.gather(*map(ask, range(64)))

    assert answers == [[f"{n}a", f"{n}b"] * 20 for n in range(64)]
    assert not bus.inbox._answers


async def test_refusal_in_the_middle_comes_after_the_pieces_before_it(server: Server) -> None:
    speaker = Speaker(error=RefusedError("insufficient_memory", "No more.", retry_after=3))
    words = []
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), speaker.receive)):
        with pytest.raises(RefusedError) as refused:
            async with bus.stream(SAY("m"), Question()) as answer:
                async for item in answer:
                    words += [item.text] if isinstance(item, Word) else []

    assert words == ["one", "two", "three"]
    assert refused.value.code == "insufficient_memory"
    assert refused.value.failure.retry_after == 3


async def test_asker_that_leaves_ends_the_work(server: Server) -> None:
    speaker = Endless()
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), speaker.receive)):
        async with bus.stream(SAY("m"), Question()) as answer:
            await anext(answer)

        async with asyncio.timeout(60):
            assert await speaker.closed.wait()


async def test_asker_that_leaves_before_reading_anything_ends_the_work(server: Server) -> None:
    speaker = Speaker(gated=True)
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), speaker.receive)):
        async with bus.stream(SAY("m"), Question()) as answer:
            await until(lambda: len(answer._waiting) == 4)

        async with asyncio.timeout(60):
            assert await speaker.closed.wait()


async def test_asker_that_leaves_before_the_first_frame_ends_the_work_with_that_frame(server: Server) -> None:
    speaker = Endless()
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), speaker.receive)):
        async with bus.stream(SAY("m"), Question()):
            pass

        async with asyncio.timeout(60):
            assert await speaker.closed.wait()


async def test_lost_connection_of_the_asker_ends_the_work(server: Server) -> None:
    speaker = Endless()
    async with connected(server.url) as actor, serving(actor, service(), Endpoint(SAY("m"), speaker.receive)):
        async with connected(server.url) as asker:
            with pytest.raises(LostError) as lost:
                async with asker.stream(SAY("m"), Question()) as answer:
                    await anext(answer)
                    asker.nc._transport._bare_io_writer.transport.abort()
                    async for _ in answer:
                        pass

            async with asyncio.timeout(60):
                await speaker.closed.wait()

    assert lost.value.code == "stream_broken"


async def test_killed_asker_ends_the_work(server: Server) -> None:
    speaker = Endless()
    async with connected(server.url) as actor, serving(actor, service(), Endpoint(SAY("m"), speaker.receive)):
        program = (
            "import asyncio\n"
            "from tests.support.nats import SAY, Question, connected\n"
            "async def main():\n"
            f"    async with connected('{server.url}') as bus, bus.stream(SAY('m'), Question()) as answer:\n"
            "        async for _ in answer:\n"
            "            print('heard', flush=True)\n"
            "asyncio.run(main())\n"
        )
        asker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
        )
        assert asker.stdout is not None
        async with asyncio.timeout(60):
            assert await asker.stdout.readline() == b"heard\n"
        asker.send_signal(signal.SIGKILL)

        async with asyncio.timeout(60):
            await speaker.closed.wait()
        await asker.communicate()


async def test_instance_reported_down_ends_its_streams_and_no_others(server: Server) -> None:
    first, second = Speaker(gated=True), Speaker(gated=True)
    async with (
        connected(server.url) as bus,
        serving(bus, service(instance="first.1"), Endpoint(SAY("1"), first.receive)),
        serving(bus, service(instance="second.2"), Endpoint(SAY("2"), second.receive)),
        bus.stream(SAY("1"), Question(words=())) as doomed,
        bus.stream(SAY("2"), Question(words=())) as spared,
    ):
        await anext(doomed)
        await anext(spared)
        await bus.publish(fill(HEARTBEAT, "first.1"), beat("first.1", "down"))
        with pytest.raises(LostError) as lost:
            await anext(doomed)
        second.gate.set()
        rest = [item async for item in spared]

    assert lost.value.code == "crashed"
    assert rest == []


async def test_instance_reported_down_ends_a_stream_whose_status_was_not_read_yet(server: Server) -> None:
    speaker = Speaker(gated=True)
    async with (
        connected(server.url) as bus,
        serving(bus, service(), Endpoint(SAY("m"), speaker.receive)),
        bus.stream(SAY("m"), Question(words=())) as answer,
    ):
        await until(lambda: len(answer._waiting) == 1)
        await bus.publish(fill(HEARTBEAT, "test-1"), beat("test-1", "down"))
        await settled(bus.nc)
        await anext(answer)
        with pytest.raises(LostError) as lost:
            await anext(answer)

    assert lost.value.code == "crashed"


async def test_silent_instance_ends_its_streams(server: Server) -> None:
    speaker = Speaker(gated=True)
    async with (
        connected(server.url, silence=0.1) as bus,
        serving(bus, service(), Endpoint(SAY("m"), speaker.receive)),
        bus.stream(SAY("m"), Question(words=())) as answer,
    ):
        # The instance has to be known before it is heard of for the last time.
        await anext(answer)
        await bus.publish(fill(HEARTBEAT, "test-1"), beat("test-1", "ready"))
        with pytest.raises(LostError) as lost:
            await anext(answer)

    assert lost.value.code == "crashed"
    assert bus.presence.instances == ()


async def test_slow_reader_breaks_its_own_stream_and_holds_a_bounded_number_of_pieces(server: Server) -> None:
    speaker = Speaker(gated=True)
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), speaker.receive)):
        with pytest.raises(LostError) as lost:
            async with bus.stream(SAY("m"), Question(words=("x",), times=6000)) as slow:
                await until(lambda: len(slow._waiting) == slow._waiting.maxlen)
                async with bus.stream(SAY("m"), Question(words=("y",))) as quick:
                    speaker.gate.set()
                    heard = [item.text async for item in quick if isinstance(item, Word)]
                kept = len(slow._waiting)
                async for _ in slow:
                    pass
        await until(lambda: speaker.running == 0)

    assert lost.value.code == "stream_broken"
    assert heard == ["y"]
    assert kept <= 4096


@pytest.mark.parametrize("words", [(), ("one",)], ids=["first piece", "next piece"])
async def test_piece_that_does_not_come_is_a_timeout_and_ends_the_work(server: Server, words: tuple[str, ...]) -> None:
    speaker = Speaker(gated=True)
    times = {"idle_timeout": 0.05} if words else {"first_timeout": 0.05}
    async with connected(server.url, **times) as bus, serving(bus, service(), Endpoint(SAY("m"), speaker.receive)):
        with pytest.raises(LostError, match=r"0\.05 s") as lost:
            async with bus.stream(SAY("m"), Question(words=words)) as answer:
                async for _ in answer:
                    pass
        async with asyncio.timeout(60):
            await speaker.closed.wait()

    assert lost.value.code == "timeout"


async def test_too_large_piece_is_an_error_and_ends_the_work(server: Server) -> None:
    closed = asyncio.Event()

    async def shout(_: Question, __: Caller) -> AsyncGenerator[Word]:
        try:
            yield Word(text="x")
            yield Word(text="x" * 2**20)
        finally:
            closed.set()

    words = []
    async with connected(server.url) as bus, serving(bus, service(), Endpoint(SAY("m"), shout)):
        with pytest.raises(RefusedError) as refused:
            async with bus.stream(SAY("m"), Question()) as answer:
                async for item in answer:
                    words += [item.text] if isinstance(item, Word) else []

    assert refused.value.code == "too_large"
    assert words == ["x"]
    assert closed.is_set()


def beat(instance: str, state: str) -> Heartbeat:
    return Heartbeat(instance=instance, role="test", state=state, pid=1, at=0.0)  # type: ignore[arg-type]
