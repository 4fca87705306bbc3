"""A child that is an OS process: spawned, waited for, told to drain, and killed when it does not.

Every spawn is a new instance with a new name. The child reads its stdin and ends when our end closes, which
happens however we die.
"""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from msgspec import Struct

from actors.watchdog import STUCK
from bus.ids import new_id

log = structlog.get_logger()


# The exit status of a process that has ended because it was told to drain: another is to take its place.
DRAINED = 75


class DrainedError(Exception):
    """The process was told to drain, and has."""


class ProcessEndedError(Exception):
    """The process ended without being asked to."""


OnEnd = Callable[[str, str, bool], Awaitable[None]]


class Program(Struct, frozen=True, kw_only=True):
    """What to spawn. `argv` is given the instance's name.

    `on_end` hears of ends other than by `run_process` being cancelled: which instance, why, and whether it had been
    told to drain.

    `drain` is how long SIGTERM may take, in seconds, before SIGKILL.
    """

    name: str
    argv: Callable[[str], list[str]]
    environment: dict[str, str]
    log_path: Path
    on_spawn: Callable[[str, int], None]
    on_end: OnEnd | None
    drain: float = 15.0


class Spawned(Struct, frozen=True):
    """A process that was started, and its name as an instance."""

    instance: str
    process: asyncio.subprocess.Process


async def spawn(program: Program) -> Spawned:
    """Start a process of `program`."""
    instance = f"{program.name.replace('/', '-').replace('.', '_')}-{new_id()[-8:].lower()}"
    with program.log_path.open("ab") as log_file:
        process = await asyncio.create_subprocess_exec(
            *program.argv(instance),
            stdin=subprocess.PIPE,
            stdout=log_file,
            stderr=log_file,
            env=program.environment,
            start_new_session=True,  # Ctrl-C is for the supervisor, which then drains in order.
        )
    return Spawned(instance, process)


Start = Callable[[Program], Awaitable[Spawned]]


async def run_process(program: Program, start: Start = spawn) -> None:
    """Run one life of `program`, until it has drained. Raises `ProcessEndedError` when it ends in another way.

    When cancelled, drains the process first.
    """
    spawned = await start(program)
    instance, process = spawned.instance, spawned.process
    program.on_spawn(instance, process.pid)
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        await _stop(process, program)
        raise
    why = _why(status)
    if program.on_end is not None:
        await program.on_end(instance, why, status == DRAINED)
    if status == DRAINED:
        return
    raise ProcessEndedError(f"{program.name}: {why}; see {program.log_path}")


def _why(status: int) -> str:
    if status == STUCK:
        return "its process ended itself: the engine had hung for longer than step_timeout"
    return f"its process ended with status {status}" if status >= 0 else f"its process was killed by signal {-status}"


async def _stop(process: asyncio.subprocess.Process, program: Program) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(program.drain):
            await process.wait()
    except TimeoutError:
        log.warning("process.killed", name=program.name, pid=process.pid, drain=program.drain)
        await kill(process)


async def kill(process: asyncio.subprocess.Process) -> None:
    """End the process for good."""
    if process.returncode is None:
        process.kill()
        await process.wait()
