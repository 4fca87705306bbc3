"""Frames that are lost, doubled or unreadable, as a stranger sends them."""

import pytest

from bus.client import settled
from bus.errors import LostError
from bus.frames import Frame
from tests.support.nats import SAY, Question, Server, Word, connected, plain_client


@pytest.mark.parametrize(
    ("numbers", "heard"), [((0, 2), ["0"]), ((1,), []), ((0, 1, 1), ["0", "1"])], ids=["lost", "first lost", "doubled"]
)
async def test_lost_piece_breaks_the_stream(server: Server, numbers: tuple[int, ...], heard: list[str]) -> None:
    words = []
    async with connected(server.url) as bus, plain_client(server.url) as stranger:
        asked = await stranger.subscribe(SAY("m").name)
        cancelled = await stranger.subscribe("fusion.control.test-1.cancel.key")
        await settled(stranger)
        with pytest.raises(LostError) as lost:
            async with bus.stream(SAY("m"), Question()) as answer:
                request = await asked.next_msg(timeout=60)
                for number in numbers:
                    frame = bus._encoder.encode(Frame(seq=number, data=Word(text=str(number))))
                    await stranger.publish(request.reply, frame, reply="fusion.control.test-1.cancel.key")
                async for item in answer:
                    words += [item.text] if isinstance(item, Word) else []

        await cancelled.next_msg(timeout=60)

    assert lost.value.code == "stream_broken"
    assert words == heard


async def test_piece_lost_at_the_end_breaks_the_stream(server: Server) -> None:
    async with connected(server.url) as bus, plain_client(server.url) as stranger:
        asked = await stranger.subscribe(SAY("m").name)
        await settled(stranger)
        with pytest.raises(LostError) as lost:
            async with bus.stream(SAY("m"), Question()) as answer:
                request = await asked.next_msg(timeout=60)
                await stranger.publish(request.reply, headers={"Fusion-End": "done", "Fusion-Count": "1"})
                await anext(answer)

    assert lost.value.code == "stream_broken"


async def test_piece_that_cannot_be_read_breaks_the_stream(server: Server) -> None:
    async with connected(server.url) as bus, plain_client(server.url) as stranger:
        asked = await stranger.subscribe(SAY("m").name)
        await settled(stranger)
        with pytest.raises(LostError) as lost:
            async with bus.stream(SAY("m"), Question()) as answer:
                request = await asked.next_msg(timeout=60)
                await stranger.publish(request.reply, b'{"seq":0,"data":{"text":5}}')
                await anext(answer)

    assert lost.value.code == "stream_broken"


async def test_nobody_taking_the_request_is_a_timeout(server: Server) -> None:
    async with connected(server.url, admit_timeout=0.05) as bus, plain_client(server.url) as stranger:
        await stranger.subscribe(SAY("m").name)
        await settled(stranger)
        with pytest.raises(LostError) as lost:
            async with bus.stream(SAY("m"), Question()) as answer:
                await anext(answer)

    assert lost.value.code == "timeout"
