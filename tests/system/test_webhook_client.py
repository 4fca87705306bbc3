"""Sending a webhook, against real servers that would lead it astray."""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest

from actors import webhook_client
from actors.webhook_address import Addresses
from tests.support.nats import until
from tests.support.webhooks import LOOPBACK, receiving

BODY = b'{"type":"webhook.test"}'


async def test_redirect_is_a_failure_and_not_followed() -> None:
    async with receiving() as inside, receiving((307, {"Location": inside.url})) as outside:
        answer = await webhook_client.post(Addresses(LOOPBACK), outside.url, {}, BODY, 10)

    assert (answer.status, answer.is_success) == (307, False)
    assert len(outside.received) == 1
    assert inside.received == []


async def test_name_that_resolves_to_this_machine_by_then_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def rebound(host: Any, *args: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host == "rebound.example" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    async with receiving() as inside:
        url = inside.url.replace("127.0.0.1", "rebound.example")
        secure = url.replace("http:", "https:")
        Addresses().refuse_url(secure, "url")
        forbidden = await webhook_client.post(Addresses(), secure, {}, BODY, 10)
        allowed = await webhook_client.post(Addresses(LOOPBACK), url, {}, BODY, 10)

    assert forbidden.status is None
    assert "127.0.0.1 is not a public address" in forbidden.error
    assert allowed.status == 200
    assert len(inside.received) == 1


async def test_names_that_nobody_answers_for_take_no_threads_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = [], threading.Event()

    def hanging(host: Any, *_: Any, **__: Any) -> Any:
        asked.append(host)
        answered.wait(60)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    posts = [webhook_client.post(Addresses(), f"https://{n}.example/", {}, BODY, 30) for n in range(40)]
    tasks = [asyncio.ensure_future(post) for post in posts]
    try:
        await until(lambda: len(asked) == 16)
        assert await asyncio.to_thread(lambda: "done") == "done"
    finally:
        answered.set()
    answers = await asyncio.gather(*tasks)

    assert {answer.status for answer in answers} == {None}


async def test_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy, receiving() as receiver:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        answer = await webhook_client.post(Addresses(LOOPBACK), receiver.url, {}, BODY, 10)

    assert answer.status == 200
    assert (len(proxy.received), len(receiver.received)) == (0, 1)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("17", 17),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", None),
        ("-5", 0),
        ("9" * 400, None),
        (f"Wed, 21 Oct {'9' * 30} 07:28:00 GMT", None),
    ],
)
async def test_when_to_come_again_is_read_as_seconds_or_a_date(said: str, seconds: float | None) -> None:
    async with receiving((429, {"Retry-After": said})) as receiver:
        answer = await webhook_client.post(Addresses(LOOPBACK), receiver.url, {}, BODY, 10)

    assert answer.retry_after == seconds


async def test_answer_without_an_end_is_not_read() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                await writer.drain()
                sent += 0x10000
        writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        answer = await webhook_client.post(Addresses(LOOPBACK), url, {}, BODY, 30)

    assert answer.status == 200
    assert sent < 50 * 2**20


async def test_whatever_lies_at_the_other_end_is_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    urls = (f"http://127.0.0.1:{port}/", "https://no-such-host.invalid/", "https://xn--/", "https://[::1]:x/")
    errors = [(await webhook_client.post(Addresses(LOOPBACK), url, {}, BODY, 10)).error for url in urls]

    assert all(errors), errors
