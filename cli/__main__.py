"""Begins the `fusion` command, so that Ctrl-C ends it without a word from the first moment on."""

import signal
import sys
from typing import NoReturn

_INTERRUPTED = 130


def main() -> None:
    """Run the command of the arguments."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        # A KeyboardInterrupt within `exec` of a text, which imports do, has Python die of the signal, caught or not.
        signal.signal(signal.SIGINT, _leave)
    from cli.commands import run_command  # noqa: PLC0415 - it takes a second, in which Ctrl-C may come

    signal.signal(signal.SIGINT, usual)
    try:
        sys.exit(run_command())
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _leave(*_: object) -> NoReturn:
    sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
