"""What every process of Fusion does around its work: logs, signals, and ending with its parent."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import structlog

from bus.settings import SettingsError

PARENT_PIPE = "FUSION_STDIN_IS_PARENT"


def configure_logs(role: str, *, level: str = "info") -> None:
    """Write logs as JSON lines to stderr, with `role` in each. Raises `SettingsError` for a `level` that is none."""
    levels = logging.getLevelNamesMapping()
    if level.upper() not in levels:
        raise SettingsError(f"The variable LOG_LEVEL: Expected `debug`, `info`, `warning` or `error` (got {level!r}).")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(levels[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(role=role)


def end_with_parent(told: Future[str] | None = None) -> None:
    """End this process at once when its parent is gone, however that died: our stdin is a pipe only it holds.

    The first line that the parent writes there is the result of `told`.
    """
    if os.environ.get(PARENT_PIPE) != "1":
        return

    def wait() -> None:
        while said := os.read(0, 4096):
            if told is not None and not told.done():
                told.set_result(said.decode().strip())
        os._exit(1)  # No clean-up: whoever would wait for it is dead.

    threading.Thread(target=wait, name="parent", daemon=True).start()


def run_until_stopped(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` on a new event loop; SIGTERM and SIGINT cancel it, so that it can drain. A second one ends it hard."""

    async def stoppable() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(main())

        def stop() -> None:
            if task.cancelling():
                os._exit(130)
            task.cancel()

        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, stop)
        try:
            await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise

    asyncio.run(stoppable())
