"""An actor process whose model is the echo, which costs nothing: what is left is the bus. Run by other benchmarks.

What `python -m actors model` reads from the environment, it does too.
"""

import argparse
import os
from pathlib import Path

from actors import host, recorder
from actors.capabilities import chat_capability
from actors.config import VARIABLES, ActorsConfig
from actors.engines.echo import EchoEngine
from actors.supervisor import supervising
from bus.blobs import Blobs
from bus.client import Bus
from bus.config import BUS_VARIABLES, BusConfig
from bus.events import EventLog
from bus.ids import new_id
from bus.messages.catalogue import ModelEntry
from bus.process import configure_logs, end_with_parent, run_until_stopped
from bus.settings import settings
from bus.streams import ensure_streams

MODEL = "echo"


def main() -> None:
    """Host the echo until SIGTERM, as `python -m actors model` hosts a model."""
    parser = argparse.ArgumentParser(prog="python -m bench.echo_actor", description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each word")
    args = parser.parse_args()
    end_with_parent()
    configure_logs("model", level="warning")
    run_until_stopped(lambda: _run(args.delay))


async def _run(delay: float) -> None:
    bus_config = settings(BusConfig, None, os.environ, BUS_VARIABLES, where="bus")
    config = settings(ActorsConfig, None, os.environ, VARIABLES, where="actors")
    async with Bus.connect("model", bus_config) as bus:
        await ensure_streams(bus.nc, config.job_ttl_days)
        recording = recorder.Recorder(EventLog(bus))
        part = chat_capability(EchoEngine(delay))
        hosted = host.Host(bus, ModelEntry(id=MODEL, kind="chat"), part, config, new_id("model"))
        async with supervising(recorder.child(recording)):
            await hosted.run(recording, Blobs(Path(bus_config.blobs)))


if __name__ == "__main__":
    main()
