"""Connecting the commands to the Fusion that runs on this machine, or to FUSION_NATS_URL."""

import argparse
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from bus.client import Bus
from bus.config import BUS_VARIABLES, BusConfig
from bus.settings import read_file, settings
from cli.state import read_running


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which Fusion is meant."""
    parser.add_argument("--state-dir", type=Path, help="the state folder of the Fusion that is meant")
    parser.add_argument("--config", type=Path, help="its configuration file")


def bus_config(args: argparse.Namespace) -> BusConfig:
    """Return how to reach it. Raises `NotRunningError` and `SettingsError`."""
    said = {} if args.state_dir is None else {"FUSION_STATE_DIR": str(args.state_dir)}
    table = read_file(args.config).get("bus")
    config = settings(BusConfig, table, os.environ | said, BUS_VARIABLES, where="configuration")
    if config.url:
        return config
    return msgspec.structs.replace(config, url=read_running(config.state).nats_url)


@asynccontextmanager
async def connected(args: argparse.Namespace) -> AsyncGenerator[Bus]:
    """Talk to it until the block ends."""
    async with Bus.connect("cli", bus_config(args)) as bus:
        yield bus
