"""The `fusion` command."""

import argparse
import sys

from actors.catalogue import ModelFilesError
from bus.errors import BusError
from bus.settings import SettingsError
from cli import chat, demo, doctor, history, jobs, models, ps, rag, replay, run, status, up
from cli.state import NotRunningError

COMMANDS = (up, demo, status, chat, models, ps, jobs, rag, history, replay, doctor, run)


def main() -> None:
    """Run the command of the arguments."""
    parser = argparse.ArgumentParser(prog="fusion", description="Serves local MLX models over NATS and HTTP.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    args = parser.parse_args()
    try:
        sys.exit(args.run(args))
    except (NotRunningError, SettingsError, BusError, ModelFilesError) as error:
        print(f"fusion: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
