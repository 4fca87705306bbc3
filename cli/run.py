"""`fusion run`: one part alone, against any NATS server: that is how a second machine joins."""

import argparse
import os
import sys
from pathlib import Path

from bus.settings import SettingsError
from cli.connect import bus_table


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("run", help="run one part alone against FUSION_NATS_URL")
    parser.add_argument("part", choices=("model", "slot", "historian", "core", "rag", "edge"))
    parser.add_argument("--model", help="which model, for `run model`")
    parser.add_argument("--slot", type=int, help="the number of the slot, for `run slot`")
    parser.add_argument("--config", type=Path, help="the configuration file")
    parser.add_argument("--port", type=int, help="the port, for `run edge`")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Become the process of that part."""
    if not bus_table(args.config, os.environ).url:
        raise SettingsError("There is no server to join: FUSION_NATS_URL, or `url` of `bus` in the file, names one.")
    module = ["http_edge"] if args.part == "edge" else ["actors", args.part]
    flags = {"--model": args.model, "--slot": args.slot, "--config": args.config, "--port": args.port}
    words = [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", *module, *words])  # noqa: S606 - the same interpreter
    return 0
