"""Connecting the commands to the Fusion that runs on this machine, or to FUSION_NATS_URL."""

import argparse
import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import msgspec

from bus.client import Bus
from bus.config import BUS_VARIABLES, BusConfig
from bus.messages.presence import Heartbeat
from bus.settings import read_file, settings
from cli.state import read_running

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no other name
Act: TypeAlias = Callable[[Bus, argparse.Namespace], Awaitable[None]]

# Everyone is heard of within one heartbeat.
_LISTEN = 1.3


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which Fusion is meant."""
    parser.add_argument("--state-dir", type=Path, help="the state folder of the Fusion that is meant")
    parser.add_argument("--config", type=Path, help="its configuration file")


def add_action(what: Subparsers, name: str, text: str, act: Act) -> argparse.ArgumentParser:
    """Add one action of a command, which is done with a connection to that Fusion."""
    parser: argparse.ArgumentParser = what.add_parser(name, help=text)
    add_place_options(parser)
    parser.set_defaults(run=lambda args: asyncio.run(_connected(act, args)))
    return parser


def moment(text: str) -> datetime:
    """Return the moment of an option; without an offset it is the time of this machine."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time, such as 2026-11-21T22:00:00Z") from error


def bus_table(file: Path | None, environment: Mapping[str, str]) -> BusConfig:
    """Return what the file and the environment say of the bus. Raises `SettingsError`."""
    table = read_file(file).get("bus")
    return settings(BusConfig, table, environment, BUS_VARIABLES, where=f"{file or 'configuration'}: bus")


def bus_config(args: argparse.Namespace) -> BusConfig:
    """Return how to reach it. Raises `NotRunningError` and `SettingsError`."""
    said = {} if args.state_dir is None else {"FUSION_STATE_DIR": str(args.state_dir)}
    config = bus_table(args.config, os.environ | said)
    if config.url:
        return config
    return msgspec.structs.replace(config, url=read_running(config.state).nats_url)


@asynccontextmanager
async def connected(args: argparse.Namespace) -> AsyncGenerator[Bus]:
    """Talk to it until the block ends."""
    async with Bus.connect("cli", bus_config(args)) as bus:
        yield bus


async def heard(bus: Bus) -> tuple[Heartbeat, ...]:
    """Return everyone who is there, after listening for as long as it takes to hear of them."""
    await asyncio.sleep(_LISTEN)
    return bus.presence.instances


async def _connected(act: Act, args: argparse.Namespace) -> int:
    async with connected(args) as bus:
        await act(bus, args)
    return 0
