"""A real nats-server, which tests may kill and start again, and what they say over it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats
import psutil
from msgspec import Struct, structs
from nats.aio.client import Client
from nats.aio.msg import Msg

from bus.client import Bus, settled
from bus.config import BusConfig
from bus.ids import new_id
from bus.serve import ServiceInfo
from bus.server import ServerConfig, running
from bus.subjects import Subject
from tests.support.ports import own_port


class Question(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the tests ask: `words` to say, one piece each."""

    words: tuple[str, ...] = ("one", "two", "three")
    times: int = 1


class Word(Struct, frozen=True, kw_only=True):
    """One piece of an answer."""

    text: str


SAY = Subject("fusion.say.*", Question, Word, streamed=True)
COUNT_WORDS = Subject("fusion.count.*", Question, Word)


class Server:
    """One nats-server on one store."""

    def __init__(self, folder: Path, sync: str) -> None:
        self.config = ServerConfig(
            store=folder / "nats", port=own_port(), monitor_port=own_port(), name=new_id("test"), sync=sync
        )
        self._log_path = folder / "nats.log"
        self._lives = AsyncExitStack()
        self._guard: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.config.url

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self._guard = await self._lives.enter_async_context(running(self.config, self._log_path))

    async def freeze(self) -> None:
        """Have it stand still until it is killed; returns when it does."""
        server = self._process
        server.suspend()
        await until(lambda: server.status() == psutil.STATUS_STOPPED)

    async def kill(self) -> None:
        """Kill it as a crash would: SIGKILL, to nats-server itself rather than to its guard."""
        assert self._guard is not None
        self._process.kill()
        await self._guard.wait()

    async def stop(self) -> None:
        """Stop it for good."""
        await self._lives.aclose()

    @property
    def _process(self) -> psutil.Process:
        assert self._guard is not None
        return nats_server_below(self._guard.pid)


def nats_server_below(parent: int) -> psutil.Process:
    """Return the nats-server that this process has started, or one of its children. Raises `LookupError` for none.

    Others below it may end while they are looked at.
    """
    for process in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name() == "nats-server":
                return process
    raise LookupError("no nats-server runs")


@asynccontextmanager
async def server_running(folder: Path, sync: str = "2m") -> AsyncGenerator[Server]:
    """Run a server until the block ends."""
    server = Server(folder, sync)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(url: str, role: str = "test", **config: Any) -> AsyncGenerator[Bus]:
    """Connect with a config whose waits are shorter than a test may take, unless said otherwise.

    Whom a test has heard of once is there until it ends.
    """
    waits = {"admit_timeout": 20.0, "first_timeout": 60.0, "idle_timeout": 60.0, "silence": 60.0}
    settings = BusConfig(url=url, **(waits | config))
    # Connecting has the same limit as being admitted, which may be too short for it here.
    async with Bus.connect(role, structs.replace(settings, admit_timeout=20.0)) as bus:
        bus.config = settings
        yield bus


@asynccontextmanager
async def plain_client(url: str) -> AsyncGenerator[Client]:
    """Connect as any other NATS client would."""
    nc = await nats.connect(url)
    try:
        yield nc
    finally:
        await nc.close()


@asynccontextmanager
async def stranger_answering(
    url: str, subject: str, payload: bytes, headers: dict[str, str] | None = None
) -> AsyncGenerator[None]:
    """Answer on `subject` with the same message always, as somebody who is not Fusion might."""

    async def answer(msg: Msg) -> None:
        await nc.publish(msg.reply, payload, headers=headers)

    async with plain_client(url) as nc:
        await nc.subscribe(subject, cb=answer)
        await settled(nc)
        yield


def service(name: str = "test", instance: str = "test-1", **fields: object) -> ServiceInfo:
    """Return what a service of the tests says of itself."""
    return ServiceInfo(name=name, instance=instance, description="A part of a test.", **fields)  # type: ignore[arg-type]


async def until(is_so: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is so that offers nothing to await."""
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.002)


async def until_it(is_so: Callable[[], Awaitable[object]], seconds: float = 60.0) -> None:
    """Wait until something is so that has to be asked for."""
    async with asyncio.timeout(seconds):
        while not await is_so():
            await asyncio.sleep(0.005)
