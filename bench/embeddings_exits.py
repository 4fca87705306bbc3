"""The process of an embeddings model, started and stopped over and over while it is asked: how each one ends."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

from bench.embeddings_http import MODEL
from bench.embeddings_inside import ALONE
from bench.embeddings_texts import short
from bus.client import Bus
from bus.config import BusConfig
from bus.errors import BusError
from bus.messages.embeddings import EmbedRequest
from bus.server import ServerConfig, free_port, running
from bus.subjects import EMBED

_AT_ONCE = 16
_ANSWERS = 8
# So many processes live at a time.
_LANES = 2
_PATIENCE = 120.0


class Askers:
    """Ask without end, whoever is there. `answers` counts the answers of each instance."""

    def __init__(self, bus: Bus, order: Random) -> None:
        self.answers: Counter[str] = Counter()
        self.answered = asyncio.Event()
        self.nats_url = bus.config.url
        self._bus = bus
        self._order = order

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[None]:
        """Do so until the block ends."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask()) for _ in range(_AT_ONCE)]
            yield
            for task in tasks:
                task.cancel()

    async def answers_of(self, instance: str) -> None:
        """Return once `instance` has given some."""
        while self.answers[instance] < _ANSWERS:
            self.answered.clear()
            await self.answered.wait()

    async def _ask(self) -> None:
        while True:
            request = EmbedRequest(input=(short(self._order), short(self._order)))
            try:
                async with self._bus.stream(EMBED(MODEL), request) as answer:
                    async for _ in answer:
                        self.answers[answer.instance] += 1
                        self.answered.set()
            except BusError:  # Nobody is there, or not any more.
                await asyncio.sleep(0.05)


async def report(folder: Path, logs: Path, *, exits: int, order: Random) -> None:
    """Measure and print."""
    config = logs / "model.yaml"
    entry = {"id": MODEL, "path": str(folder), "kind": "embeddings", "tier": 0}
    config.write_text(json.dumps({"models": [entry]}), encoding="utf-8")  # JSON is YAML too.
    server = ServerConfig(store=logs / "nats", port=free_port(), monitor_port=free_port(), name="bench")
    ends: Counter[int] = Counter()
    begun = time.perf_counter()
    async with (
        running(server, logs / "nats.log"),
        Bus.connect("bench", BusConfig(url=server.url)) as bus,
    ):
        askers = Askers(bus, order)
        left = iter(range(exits))

        async def lane() -> None:
            for number in left:
                ends[await _life(askers, config, logs, f"model-{number}")] += 1

        async with askers.asking():
            await asyncio.gather(*(lane() for _ in range(_LANES)))
    told = ", ".join(f"{count} with status {status}" for status, count in sorted(ends.items()))
    print(f"- {exits} processes stopped while asked, in {time.perf_counter() - begun:.0f} s: {told}")


async def _life(askers: Askers, config: Path, logs: Path, instance: str) -> int:
    """Start a process, stop it once it has answered some, and return its exit status; -9 if it hangs."""
    with (logs / "model.log").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "actors", "model", "--model", MODEL, "--instance", instance),
            *("--config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | ALONE | {"FUSION_NATS_URL": askers.nats_url, "FUSION_STATE_DIR": str(logs)},
        )
    ended = asyncio.create_task(process.wait())
    answered = asyncio.create_task(askers.answers_of(instance))
    await asyncio.wait((ended, answered), return_when=asyncio.FIRST_COMPLETED, timeout=_PATIENCE)
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM if answered.done() else signal.SIGKILL)
    answered.cancel()
    try:
        async with asyncio.timeout(_PATIENCE):
            return await asyncio.shield(ended)
    except TimeoutError:
        process.kill()
        return await ended
