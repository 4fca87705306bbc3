"""The processes that are measured: started, waited for, read from outside and ended."""

import asyncio
import contextlib
import os
import platform
import signal
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
import psutil

from actors.engines.blas import prepare_blas

T = TypeVar("T")

_START = 180.0
_STOP = 20.0


class Measured:
    """A process with all its descendants."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far by those that live."""
        return sum(used.user + used.system for used in self._each(psutil.Process.cpu_times))

    def rss_mb(self) -> float:
        """Return the resident memory; what processes share is counted in each."""
        return sum(used.rss for used in self._each(psutil.Process.memory_info)) / 1e6

    def _each(self, read: Callable[[psutil.Process], T]) -> Iterator[T]:
        for process in (self._root, *self._root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                yield read(process)


@asynccontextmanager
async def started(
    argv: list[str], log: Path, variables: Mapping[str, str] | None = None, folder: Path | None = None
) -> AsyncGenerator[Measured]:
    """Run `argv` until the block ends; `folder` is its working directory."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(variables or {})},
            cwd=folder,
        )
    try:
        yield Measured(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def answering(url: str) -> None:
    """Return when a GET of `url` is answered with 200. Raises `TimeoutError` if it never is."""
    async with asyncio.timeout(_START), aiohttp.ClientSession() as session:
        while not await _answers(session, url):
            await asyncio.sleep(0.1)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def environment() -> dict[str, str]:
    """Return what gives all the same BLAS: `prepare_blas` has put its settings into our environment already."""
    return {"LD_PRELOAD": "libopenblas.so.0"} if prepare_blas() == "openblas" else {}


def machine() -> str:
    """Return what the figures were taken on."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
