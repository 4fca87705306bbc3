"""The `fusion` command, as a user runs it in a shell."""

import asyncio
import os
import pty
import sys
import termios
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from tests.support.processes import REPOSITORY


class Printed(Struct, frozen=True):
    """How a command has ended, and what it has said."""

    status: int
    out: str
    err: str


def home(folder: Path) -> dict[str, str]:
    """Return the variables that put the caches of models into `folder`."""
    return {"HOME": str(folder), "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_TELEMETRY": "1"}


@asynccontextmanager
async def started(
    *words: str, environment: Mapping[str, str], **streams: int
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Start `fusion` with `words`; what has not ended when the block does is killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli",
        *words,
        **(
            {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
            | streams
        ),
        env={**os.environ, **environment},
        cwd=REPOSITORY,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def fusion(*words: str, environment: Mapping[str, str] | None = None, typed: str = "") -> Printed:
    """Run it to its end, without a terminal; `typed` is its input."""
    async with started(*words, environment=environment or {}) as process, asyncio.timeout(240):
        out, err = await process.communicate(typed.encode())
    assert process.returncode is not None
    return Printed(process.returncode, out.decode(), err.decode())


async def on_terminal(*words: str, environment: Mapping[str, str]) -> str:
    """Run it to its end with a terminal as stderr, and return what that has been sent."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 120))
    async with started(*words, environment=environment, stderr=its) as process, asyncio.timeout(240):
        os.close(its)
        said = asyncio.create_task(asyncio.to_thread(_everything, ours))
        await process.communicate()
        return await said


def _everything(terminal: int) -> str:
    pieces: list[bytes] = []
    try:
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    except OSError:  # Linux says so, rather than nothing, when the other end is closed.
        pass
    finally:
        os.close(terminal)
    return b"".join(pieces).decode()
