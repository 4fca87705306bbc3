"""Runs the edge: `python -m http_edge`. The supervisor of all starts it."""

import argparse
import os
import sys
from pathlib import Path

import structlog

from bus.blobs import Blobs
from bus.client import Bus
from bus.config import BUS_VARIABLES, BusConfig
from bus.errors import LostError
from bus.heartbeat import beating, plain_beat
from bus.ids import new_id
from bus.process import configure_logs, end_with_parent, run_until_stopped
from bus.settings import SettingsError, read_file, settings
from http_edge.app import serving_http
from http_edge.batches.clerk import Clerk
from http_edge.config import VARIABLES, EdgeConfig

log = structlog.get_logger()


def main() -> None:
    """Read the arguments and serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m http_edge", description=__doc__)
    parser.add_argument("--instance", default=f"edge-{new_id()[-8:].lower()}", help="the name of this instance")
    parser.add_argument("--config", type=Path, help="the configuration file")
    parser.add_argument("--port", type=int, help="the port, in place of the configured one")
    args = parser.parse_args()
    end_with_parent()
    configure_logs("edge", level=os.environ.get("LOG_LEVEL") or "info")
    environment = os.environ | ({} if args.port is None else {"FUSION_PORT": str(args.port)})
    try:
        tables = read_file(args.config)
        bus = settings(BusConfig, tables.get("bus"), environment, BUS_VARIABLES, where="bus")
        edge = settings(EdgeConfig, tables.get("edge"), environment, VARIABLES, where="edge")
        run_until_stopped(lambda: _serve(args.instance, bus, edge))
    except (SettingsError, LostError, OSError) as error:
        log.error("process.failed", error=str(error))
        sys.exit(1)


async def _serve(instance: str, bus_config: BusConfig, config: EdgeConfig) -> None:
    blobs = Blobs(bus_config.blobs)
    async with (
        Bus.connect("edge", bus_config) as bus,
        serving_http(bus, config, blobs, Blobs(bus_config.uploads, is_passing=True)) as (host, port),
        beating(bus, plain_beat(instance, "edge", {"url": f"http://{host}:{port}"})),
    ):
        log.info("edge.ready", host=host, port=port)
        await Clerk(bus, blobs).run()


if __name__ == "__main__":
    main()
