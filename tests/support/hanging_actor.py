"""A model's process whose engine thread hangs on every text after its first word. Run by the tests of the watchdog."""

import argparse
import os
import time
from collections.abc import AsyncGenerator

from actors.capabilities import chat_capability
from actors.config import ActorsConfig
from actors.engines.echo import EchoEngine, EchoWork
from actors.engines.engine import ModelFacts
from actors.engines.thread import EngineThread
from actors.host import Host
from actors.recorder import Recorder
from bus.blobs import Blobs
from bus.client import Bus
from bus.config import BUS_VARIABLES, BusConfig
from bus.events import EventLog
from bus.messages.catalogue import ModelEntry
from bus.messages.chat import ChatChunk, ChatRequest
from bus.process import configure_logs, end_with_parent, run_until_stopped
from bus.settings import settings
from bus.streams import ensure_streams

MODEL = "hanging"


class HangingEngine:
    """Says one word, and then keeps its thread for ever."""

    def __init__(self) -> None:
        self._echo = EchoEngine()
        self._thread = EngineThread("hanging")
        self.tokenize, self.detokenize = self._echo.tokenize, self._echo.detokenize

    async def load(self) -> ModelFacts:
        self._thread.start()
        return await self._echo.load()

    def prepare(self, request: ChatRequest) -> EchoWork:
        return self._echo.prepare(request)

    async def generate(self, work: EchoWork) -> AsyncGenerator[ChatChunk]:
        yield ChatChunk(text=work.words[0])
        await self._thread.call(time.sleep, 3600)

    async def ping(self) -> None:
        await self._thread.call(lambda: None)

    async def unload(self) -> None:
        await self._thread.close()


async def _run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--instance", required=True)
    instance = parser.parse_args().instance
    bus_config = settings(BusConfig, None, os.environ, BUS_VARIABLES, where="bus")
    config = ActorsConfig(step_timeout=5.0)
    async with Bus.connect("model", bus_config) as bus:
        await ensure_streams(bus.nc, config.job_ttl_days)
        hosted = Host(bus, ModelEntry(id=MODEL, kind="chat"), chat_capability(HangingEngine()), config, instance)
        await hosted.run(Recorder(EventLog(bus)), Blobs(bus_config.blobs))


if __name__ == "__main__":
    end_with_parent()
    configure_logs("model")
    run_until_stopped(_run)
