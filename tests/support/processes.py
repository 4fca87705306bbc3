"""A whole Fusion in processes of its own, as a user starts it, for tests that kill parts of it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from cli.state import Running, read_running
from tests.support.nats import nats_server_below, until

REPOSITORY = Path(__file__).parents[2]


def toy_only(actors: str = "") -> str:
    """Return a configuration whose only model is the toy; without slots, for nobody asks for a heavy one.

    Whole, but for more models at the end.
    """
    return f"""
actors: {{slots: 0{actors and ", "}{actors}}}
models:
  - {{id: fusion-toy, path: "embedded:fusion-toy", kind: chat}}
"""


def endless_story() -> dict[str, Any]:
    """Return a chat with the toy that cannot end by itself before its context does, which takes seconds."""
    ends = json.loads((REPOSITORY / "models/fusion-toy/config.json").read_text())["eos_token_id"]
    return {
        "model": "fusion-toy",
        "messages": [{"role": "user", "content": "Tell me a story about a cat."}],
        "temperature": 2,
        "logit_bias": {str(token): -100 for token in (ends if isinstance(ends, list) else [ends])},
    }


class Fusion:
    """One running `fusion up`."""

    def __init__(self, process: asyncio.subprocess.Process, state: Path) -> None:
        self.process = process
        self.state = state

    @property
    def running(self) -> Running:
        """Where it is reached, and its processes as they are now."""
        return read_running(self.state)

    def kill(self, name: str) -> None:
        """Send SIGKILL to the process `name`, or to nats-server itself rather than its guard."""
        pid = self.nats_pid() if name == "nats-server" else self.running.processes[name]
        os.kill(pid, signal.SIGKILL)

    async def kill_once_there(self, name: str) -> None:
        """Do so as soon as it runs: it may be about to be started again."""

        def is_killed() -> bool:
            try:
                self.kill(name)
            except (LookupError, ProcessLookupError):
                return False
            return True

        await until(is_killed)

    def nats_pid(self) -> int:
        """Return the process id of nats-server. Raises `LookupError`."""
        return nats_server_below(self.process.pid).pid

    def family(self) -> list[psutil.Process]:
        """Return the supervisor and everything that it started."""
        return [me := psutil.Process(self.process.pid), *me.children(recursive=True)]


@asynccontextmanager
async def fusion_up(
    folder: Path, config: str | None = None, environment: dict[str, str] | None = None
) -> AsyncGenerator[Fusion]:
    """Start it, with the toy alone unless told otherwise, wait for its ready line, and stop it at the end."""
    state = folder / "state"
    path = folder / "fusion.yaml"
    path.write_text(toy_only() if config is None else config)
    options = ["--config", str(path), "--state-dir", str(state), "--port", "0", "--nats-port", "0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli",
        "up",
        *options,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | (environment or {}),
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(240):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("Fusion is ready"), (line, _logs(state))
        yield Fusion(process, state)
    finally:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(60):
                await process.wait()


async def gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended, and return those that have not after `seconds`.

    psutil.wait_procs would take the exit status of our own child away from asyncio.
    """

    def alive() -> list[psutil.Process]:
        return [each for each in processes if _runs(each)]

    with suppress(TimeoutError):
        await until(lambda: not alive(), seconds)
    return alive()


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended; one that nobody has waited for yet has."""
    try:
        # Dead is what one is for a moment between being waited for and being gone.
        return process.is_running() and process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


def children_that_run(module: str, parent: int | None = None, *, or_ended: bool = False) -> list[psutil.Process]:
    """Return those below `parent`, or below this process, that run the Python module `module`.

    With `or_ended` also all that have ended but were not waited for; whatever they ran, it is known no more.
    """

    def is_one(process: psutil.Process) -> bool:
        try:
            return module in process.cmdline()
        except psutil.ZombieProcess:
            return or_ended
        except psutil.NoSuchProcess:
            return False

    return [each for each in psutil.Process(parent).children(recursive=True) if is_one(each)]


def _logs(state: Path) -> str:
    return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in (state / "logs").glob("*.log"))
