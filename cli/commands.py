"""The commands of `fusion`, and what becomes of their errors."""

import argparse
import os
import sys

from actors.catalogue import ModelFilesError
from bus.errors import BusError
from bus.process import configure_logs
from bus.settings import SettingsError
from cli import chat, demo, doctor, history, jobs, models, ps, rag, replay, run, status, up
from cli.state import NotRunningError

COMMANDS = (up, demo, status, chat, models, ps, jobs, rag, history, replay, doctor, run)


def run_command() -> int:
    """Run the command of the arguments, and return with which status to end."""
    parser = argparse.ArgumentParser(prog="fusion", description="Serves local MLX models over NATS and HTTP.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    args = parser.parse_args()
    try:
        configure_logs("cli", level=os.environ.get("LOG_LEVEL") or "error")
        ended_with: int = args.run(args)
        sys.stdout.flush()
    except (NotRunningError, SettingsError, BusError, ModelFilesError) as error:
        print(f"fusion: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Who reads has left, as `head` does. What is buffered would be tried once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return ended_with
