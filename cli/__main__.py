"""Begins the `fusion` command, so that Ctrl-C ends it without a word from the first moment on."""

import sys


def main() -> None:
    """Run the command of the arguments."""
    try:
        from cli.commands import run_command  # noqa: PLC0415 - it takes a second, in which Ctrl-C may come

        sys.exit(run_command())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
