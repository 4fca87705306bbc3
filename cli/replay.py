"""`fusion replay`: builds the history again from the log, beside the old one, and puts it in its place."""

import argparse
import asyncio
import time

from bus.messages.history import RebuildHistory
from bus.subjects import REBUILD_HISTORY
from cli.connect import add_place_options, connected

# A million events take about 40 s.
_PATIENCE = 600.0


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("replay", help="rebuild the history from the log, while serving")
    add_place_options(parser)
    parser.set_defaults(run=lambda args: asyncio.run(_replay(args)))


async def _replay(args: argparse.Namespace) -> int:
    async with connected(args) as bus:
        begun = time.monotonic()
        rebuilt = await bus.ask(REBUILD_HISTORY(), RebuildHistory(), patience=_PATIENCE)
        seconds = time.monotonic() - begun
        print(f"The history is rebuilt: {rebuilt.jobs} jobs from {rebuilt.as_of} events in {seconds:.2f} s.")
    return 0
