"""The connection itself."""

import asyncio

import nats
import pytest
from nats.errors import ConnectionClosedError, FlushTimeoutError

from bus.client import Bus, flushed, settled, whole
from bus.config import BusConfig
from bus.errors import LostError
from tests.support.nats import Server, connected, until
from tests.support.ports import own_port


async def test_cancel_that_comes_together_with_the_result_is_not_swallowed() -> None:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(whole(asyncio.wait_for(answer, 5)))
    await asyncio.sleep(0)
    answer.set_result(1)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_result_that_comes_during_a_clean_up_is_given() -> None:
    async def clean_up() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            found.append(await whole(asyncio.wait_for(asyncio.sleep(0, 7), 5)))
        return 0

    found: list[int] = []
    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))

    assert found == [7]


async def test_no_server_is_told_with_its_address() -> None:
    url = f"nats://127.0.0.1:{own_port()}"

    with pytest.raises(LostError, match=url) as lost:
        async with Bus.connect("test", BusConfig(url=url, admit_timeout=0.3)):
            pass

    assert lost.value.code == "unavailable"


async def test_server_that_goes_right_after_the_connection_is_made_is_told_as_none(server: Server) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", server.config.port)
        writer.write(await there.readline())  # INFO
        while b"SUB" not in (line := await reader.readline()):
            back.write(line)
            if line.startswith(b"PING"):
                writer.write(await there.readline())
        relays.close()
        writer.close()
        back.close()

    relays = await asyncio.start_server(relay, "127.0.0.1", own_port())
    host, port = relays.sockets[0].getsockname()

    with pytest.raises(LostError, match=str(port)) as lost:
        async with Bus.connect("test", BusConfig(url=f"nats://{host}:{port}", admit_timeout=1)):
            pass

    assert lost.value.code == "unavailable"


async def test_waiting_for_the_server_may_be_given_up(server: Server) -> None:
    broken: list[Exception] = []

    async def on_error(error: Exception) -> None:
        broken.append(error)

    nc = await nats.connect(server.url, error_cb=on_error)
    waiting = asyncio.create_task(flushed(nc))
    while not nc._pongs:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(FlushTimeoutError):
        await flushed(nc, 0)
    await settled(nc)

    assert (broken, nc.stats["reconnects"]) == ([], 0)
    await nc.close()


async def test_server_is_asked_again_when_it_was_lost_with_its_answer(server: Server) -> None:
    async with connected(server.url) as bus:
        await server.freeze()
        waiting = asyncio.create_task(settled(bus.nc))
        await until(lambda: bus.nc._pongs)
        await server.kill()
        await server.start()

        await waiting

        assert bus.nc.stats["reconnects"] == 1


async def test_waiting_for_a_server_ends_with_the_connection(server: Server) -> None:
    nc = await nats.connect(server.url)
    await server.freeze()
    waiting = asyncio.create_task(flushed(nc))
    await until(lambda: nc._pongs)
    await nc.close()

    with pytest.raises(ConnectionClosedError):
        await waiting
