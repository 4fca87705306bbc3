"""Processes that read files which anybody may send, and may be killed; limited_child.py is what runs in them.

A process stays for the next file, because starting one takes longer than reading most of them.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import msgspec
import structlog
from msgspec import Raw

from actors.limited_child import Reply, UnreadableError

log = structlog.get_logger()

# Whatever a library loses ends with its process; none was seen to grow.
_FILES_PER_PROCESS = 500
_READ_BYTES = 2**20

_reply = msgspec.json.Decoder(Reply)


class LimitedProcesses:
    """Processes of one program, of which few work at a time."""

    def __init__(self, module: str, *arguments: str, at_once: int) -> None:
        """Run `python -m module arguments` when there is work."""
        self._command = (sys.executable, "-W", "ignore", "-m", module, *arguments)
        self._turns = asyncio.Semaphore(at_once)
        self._idle: list[LimitedProcess] = []

    @asynccontextmanager
    async def borrowed(self) -> AsyncGenerator["LimitedProcess"]:
        """Give a process, when it is this caller's turn. It is killed unless its last task was done."""
        async with self._turns:
            process = await self._next()
            try:
                yield process
            finally:
                if process.is_good:
                    self._idle.append(process)
                else:
                    await process.end()

    async def close(self) -> None:
        """End the processes."""
        while self._idle:
            await self._idle.pop().end()

    async def _next(self) -> "LimitedProcess":
        while self._idle:
            process = self._idle.pop()
            if process.is_good:
                return process
            await process.end()
        return LimitedProcess(
            await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_READ_BYTES
            )
        )


class LimitedProcess:
    """One of them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._files = 0
        self._is_working = False

    @property
    def is_good(self) -> bool:
        """Whether it can read another file."""
        return self._process.returncode is None and not self._is_working and self._files < _FILES_PER_PROCESS

    async def ask(self, task: bytes, seconds: float, *, room_bytes: int, no_room: str) -> tuple[Raw, bytes]:
        """Return what the answer to `task`, a line of JSON, is about, and the bytes that came with it.

        Raises `UnreadableError`, with the sentence `no_room` when they are more than `room_bytes`; it may not be good
        any more then.
        """
        self._is_working = True
        try:
            async with asyncio.timeout(seconds):
                reply, content = await self._asked(task, room_bytes, no_room)
        except TimeoutError as error:
            raise UnreadableError(f"It takes longer than {seconds:g} s to read.") from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            log.warning("limited_process.ended", task=task.decode())
            raise UnreadableError("Reading it crashed, or took more memory than it may.") from error
        self._is_working = False
        self._files += 1
        if reply.error:
            raise UnreadableError(reply.error)
        return reply.about, content

    async def end(self) -> None:
        """Kill it."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _asked(self, task: bytes, room_bytes: int, no_room: str) -> tuple[Reply, bytes]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - it is a pipe
        assert stdout is not None  # noqa: S101 - the same
        stdin.write(task + b"\n")
        reply = _reply.decode(await stdout.readuntil(b"\n"))
        if reply.size_bytes > room_bytes:
            raise UnreadableError(no_room)
        return reply, await stdout.readexactly(reply.size_bytes)
