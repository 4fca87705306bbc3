"""Sends one webhook over HTTP: the only place where an actor does (docs/adr/0016)."""

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from actors.webhook_address import Addresses
from bus.errors import RefusedError
from eventlog.webhook import Answer

_HEADERS = {"Content-Type": "application/json", "User-Agent": "Fusion-Webhooks/1"}
# Bytes. aiohttp reads twice as much ahead, and nothing of the body is read out.
_READ_AHEAD = 32 * 1024
_LONGEST_ERROR = 300


class _Resolver(AbstractResolver):
    """Resolves names on threads of its own: names that nobody answers for would take those of the whole core."""

    _threads = ThreadPoolExecutor(16, "webhooks-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host`. Raises OSError."""
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [
            ResolveResult(
                hostname=host,
                host=str(place[0]),
                port=int(place[1]),
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, place in found
        ]

    async def close(self) -> None:
        """Keep the threads for the next."""


async def post(addresses: Addresses, url: str, headers: dict[str, str], body: bytes, seconds: float) -> Answer:
    """Send `body` to `url` and return how that went. Never raises for what lies at the other end.

    Redirects are not followed, and no proxy of the environment is asked.
    """
    begun = time.monotonic()
    try:
        addresses.refuse_url(url, "url")
        async with asyncio.timeout(seconds):
            status, retry_after = await _post(addresses, url, _HEADERS | headers, body)
    except TimeoutError:
        return Answer(seconds=time.monotonic() - begun, error=f"There was no answer within {seconds:g} s.")
    except (RefusedError, aiohttp.ClientError, OSError, ValueError) as error:
        return Answer(seconds=time.monotonic() - begun, error=(str(error) or type(error).__name__)[:_LONGEST_ERROR])
    return Answer(seconds=time.monotonic() - begun, status=status, retry_after=_seconds(retry_after))


async def _post(addresses: Addresses, url: str, headers: dict[str, str], body: bytes) -> tuple[int, str | None]:
    connector = aiohttp.TCPConnector(
        socket_factory=addresses.open_socket(urlsplit(url).scheme),
        resolver=_Resolver(),
        use_dns_cache=False,
        force_close=True,
    )
    async with (
        aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=_READ_AHEAD
        ) as session,
        session.post(url, data=body, headers=headers, allow_redirects=False) as response,
    ):
        return response.status, response.headers.get("Retry-After")


def _seconds(retry_after: str | None) -> float | None:
    """Return how long the receiver wants to be left alone: it says seconds, or a date."""
    if retry_after is None:
        return None
    with suppress(ValueError, OverflowError):
        return max(float(int(retry_after)), 0.0)
    with suppress(ValueError, OverflowError, TypeError):
        at = parsedate_to_datetime(retry_after)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max((at - datetime.now(UTC)).total_seconds(), 0.0)
    return None
