"""Runs one question in SQL on a copy of the history: `python -m eventlog.history_sql COPY`.

A program of its own, because nothing less bounds what SQL may take: a single value can grow past every limit of
DuckDB, and cannot be interrupted while it does. Writes a line when it has started, reads a `Question` from its input
and writes an `Answer`. Whoever starts it ends it when its time is over.
"""

import re
import resource
import sys
from pathlib import Path
from typing import Any

import duckdb
import msgspec
from msgspec import Struct

from eventlog.history_query import Table, plain_row

# Of addresses, not of memory in use: Python and DuckDB take about half a GiB of them before anything is asked.
_ADDRESS_BYTES = 2 << 30
_CPU_SECONDS = 10

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "memory_limit": "512MB",
    "temp_directory": "",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}

_PATH = re.compile(r"(?<![\w/])/[^\s\"',;:)]+")


class Question(Struct, frozen=True, kw_only=True):
    """At most `limit` rows of what `sql` selects, and no more than come to `most_bytes` as JSON."""

    sql: str
    limit: int
    most_bytes: int


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rows, or what is wrong with the question."""

    table: Table | None = None
    error: str | None = None


def main() -> None:
    """Answer one question."""
    if sys.platform == "linux":  # macOS takes no limit that a process exceeds already, and all do there.
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    sys.stdout.buffer.write(msgspec.json.encode(answer(Path(sys.argv[1]), question)))


def answer(copy: Path, question: Question) -> Answer:
    """Return what `question` selects in the tables of `copy`, which nothing can change or leave."""
    try:
        with duckdb.connect(str(copy), read_only=True, config=_CONFIG) as db:
            db.execute("SET enable_external_access = false")
            db.execute("SET lock_configuration = true")
            return Answer(table=_selected(db, question))
    except (duckdb.Error, MemoryError, ValueError) as error:
        return Answer(error=_told(error))


def _selected(db: duckdb.DuckDBPyConnection, question: Question) -> Table:
    statements = db.extract_statements(question.sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise ValueError("Only one statement is run, and only one that selects.")
    found = db.sql(statements[0]).limit(question.limit + 1)
    if any("TIMESTAMP WITH TIME ZONE" in str(kind) for kind in found.types):
        # DuckDB reads them only where pytz happens to be installed.
        raise ValueError("A moment with a time zone cannot be told: cast it to TIMESTAMP.")
    rows, size = list[tuple[Any, ...]](), 0
    for row in found.fetchall():
        rows.append(plain_row(row))
        size += len(msgspec.json.encode(rows[-1]))
        if size > question.most_bytes and len(rows) == 1:
            raise ValueError(f"One row is {size} bytes; all together may be {question.most_bytes}.")
        if size > question.most_bytes or len(rows) > question.limit:
            return Table(tuple(found.columns), tuple(rows[:-1]), truncated=True)
    return Table(tuple(found.columns), tuple(rows), truncated=False)


def _told(error: Exception) -> str:
    """Return what went wrong in words that name no path of this machine."""
    text = str(error).strip() or "It takes more memory than it may."
    return _PATH.sub("…", text)


if __name__ == "__main__":
    main()
