"""Files of DuckDB that are projections: nothing in them is lost with them, so a damaged one is thrown away."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import duckdb
import structlog

from eventlog.history import OutdatedError

log = structlog.get_logger()

T = TypeVar("T")


def opened(name: str, path: Path, open_file: Callable[[Path], T]) -> T:
    """Return what `open_file` makes of the file. A damaged one, or one of another version, is deleted before.

    `name` is what the log calls it. Raises duckdb.Error when another process has it.
    """
    try:
        return open_file(path)
    except (duckdb.Error, OutdatedError) as error:
        if "lock" in str(error):
            raise  # Another process has it: no reason to throw it away.
        what = f"{name}.damaged" if isinstance(error, duckdb.Error) else f"{name}.outdated"
        log.warning(what, path=str(path), error=str(error))
        path.unlink(missing_ok=True)
        wal_of(path).unlink(missing_ok=True)
        return open_file(path)


def wal_of(path: Path) -> Path:
    """Return the file with what was committed since the last checkpoint of `path`."""
    return path.with_name(path.name + ".wal")
