"""The processes that chaos is made of: started again whenever they end, killed and frozen on demand."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

from bench.echo_actor import MODEL
from bus.messages.presence import Heartbeat
from bus.process import PARENT_PIPE
from bus.server import ServerConfig, free_port, running

_TOY = Path(__file__).parents[1] / "models" / "fusion-toy"
_STOP = 10.0


class Part:
    """One process."""

    def __init__(self, argv: list[str], log: Path, variables: dict[str, str]) -> None:
        self.log = log
        self.is_frozen = False
        self._argv = argv
        self._variables = variables
        self._process: asyncio.subprocess.Process | None = None

    async def live(self) -> None:
        """Run it until cancelled, again and again."""
        while True:
            with self.log.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    *self._argv,
                    # It ends with us, however we end.
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **self._variables, PARENT_PIPE: "1"},
                )
            try:
                await self._process.wait()
            except asyncio.CancelledError:
                await self._stop(self._process)
                raise

    @property
    def pid(self) -> int:
        """The id of the process as it runs now; 0 before the first."""
        return self._process.pid if self._process else 0

    def kill(self) -> None:
        """Kill it as a crash would."""
        self._send(signal.SIGKILL)

    def freeze(self) -> None:
        """Have it stand still."""
        self.is_frozen = True
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        self.is_frozen = False
        self._send(signal.SIGCONT)

    def _send(self, sign: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if self._process is not None:
                self._process.send_signal(sign)

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        self.resume()
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


class Server:
    """The nats-server."""

    def __init__(self, folder: Path) -> None:
        self.config = ServerConfig(
            store=folder / "nats", port=free_port(), monitor_port=free_port(), name=f"chaos-{os.getpid()}"
        )
        self.ready = asyncio.Event()
        self._log = folder / "nats.log"
        self._guard = 0

    async def live(self) -> None:
        """Run it until cancelled, again and again."""
        while True:
            async with running(self.config, self._log) as guard:
                self._guard = guard.pid
                self.ready.set()
                await guard.wait()

    def kill(self) -> None:
        """Kill nats-server itself, not the shell that guards it."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._guard).children():
                if child.name() == "nats-server":
                    child.kill()


class Parts:
    """A whole Fusion whose model is the echo, with several workers."""

    def __init__(self, folder: Path, workers: int, ack_wait: float) -> None:
        config = folder / "fusion.yaml"
        config.write_text(json.dumps({"models": [{"id": MODEL, "path": str(_TOY), "kind": "chat", "tier": 1}]}))
        self.folder = folder
        self.port = free_port()
        self.server = Server(folder)
        variables = {
            "FUSION_NATS_URL": self.server.config.url,
            "FUSION_STATE_DIR": str(folder),
            "LOG_LEVEL": "warning",
            "JOB_ACK_WAIT_SECONDS": str(ack_wait),
            # Whoever is killed so often must not run out of attempts.
            "JOB_MAX_ATTEMPTS": "100",
            # Half of the places are for jobs.
            "DEFAULT_CONCURRENCY": "8",
        }
        catalogue = ["--config", str(config)]
        self.core = Part(["actors", "core", *catalogue], folder / "core.log", variables)
        self.historian = Part(["actors", "historian", *catalogue], folder / "historian.log", variables)
        self.edge = Part(["http_edge", "--port", str(self.port)], folder / "edge.log", variables)
        self.workers = [
            Part(
                ["bench.echo_actor", "--delay", "0.05"],
                folder / f"worker-{number}.log",
                variables,
            )
            for number in range(1, workers + 1)
        ]

    @property
    def url(self) -> str:
        """Where the edge answers."""
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def living(self) -> AsyncGenerator[None]:
        """Run all until the block ends."""
        async with _living(self.server.live()):
            await self.server.ready.wait()
            parts = (self.core, self.historian, self.edge, *self.workers)
            async with _living(*(part.live() for part in parts)):
                yield

    def workers_at_work(self, beats: tuple[Heartbeat, ...]) -> int:
        """Return how many workers run that are neither starting nor frozen."""
        ready = {beat.pid for beat in beats if beat.state == "ready"}
        return sum(worker.pid in ready and not worker.is_frozen for worker in self.workers)

    def fenced(self) -> int:
        """Return how many attempts have found that their job was another's, by the logs."""
        return sum(part.log.read_text().count('"job.fenced"') for part in self.workers)


@asynccontextmanager
async def _living(*lives: Awaitable[None]) -> AsyncGenerator[None]:
    tasks = [asyncio.ensure_future(life) for life in lives]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
