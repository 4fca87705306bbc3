"""One process that is started before it is needed, so that what takes its place has done its imports.

It waits for a line on its stdin, which tells it what it is.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from actors.process import Program, Spawned, kill, spawn


class Standby:
    """Keeps one process of `program` waiting."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._waiting: Spawned | None = None
        self._taking = asyncio.Lock()

    async def take(self, line: str) -> Spawned:
        """Return a process that was told `line`: the one that waited, if it is alive. Another waits then."""
        async with self._taking:
            taken, self._waiting = self._waiting, None
            if taken is None or taken.process.returncode is not None:
                taken = await spawn(self._program)
            assert taken.process.stdin is not None  # noqa: S101 - it is a pipe
            taken.process.stdin.write(f"{line}\n".encode())
            self._waiting = await spawn(self._program)
            return taken

    async def stop(self) -> None:
        """End the one that waits: it does nothing that has to be finished."""
        if self._waiting is not None:
            await kill(self._waiting.process)


@asynccontextmanager
async def standing_by(program: Program) -> AsyncGenerator[Standby]:
    """Keep a process waiting until the block ends."""
    standby = Standby(program)
    try:
        yield standby
    finally:
        await standby.stop()
