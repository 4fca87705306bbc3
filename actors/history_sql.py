"""Questions in SQL: each runs in a process of its own on a copy of the history, and is killed after its time."""

import asyncio
import sys
from pathlib import Path

import msgspec
import structlog

from actors.history_file import HistoryFile, folder_beside
from bus.errors import LostError, RefusedError
from eventlog.history_query import Table
from eventlog.history_sql import Answer, Question

log = structlog.get_logger()

_SECONDS = 5.0
# Python and DuckDB take a third of one, unless the machine is busy.
_START_SECONDS = 30.0
_AT_ONCE = 2
# The reply is one message.
_SHARE_OF_MESSAGE = 0.9

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Answer)


class SqlQueries:
    """Asks copies of one history."""

    def __init__(self, file: HistoryFile, max_payload: int) -> None:
        self._file = file
        self._most_bytes = int(_SHARE_OF_MESSAGE * max_payload)
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def run(self, sql: str, limit: int) -> Table:
        """Return at most `limit` rows of what `sql` selects. Raises `RefusedError` that names `sql`, or `LostError`."""
        if self._places.locked():
            raise RefusedError("queue_full", f"{_AT_ONCE} queries are running, as many as may.", retry_after=1)
        async with self._places:
            with folder_beside(self._file.path) as folder:
                copy = Path(folder) / "history.duckdb"
                await self._file.copy(copy)
                answer = await _answered(copy, Question(sql=sql, limit=limit, most_bytes=self._most_bytes))
        if answer.table is None:
            raise _refused(answer.error or "")
        return answer.table


async def _answered(copy: Path, question: Question) -> Answer:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eventlog.history_sql", str(copy)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await _started(process)
        async with asyncio.timeout(_SECONDS):
            said, complaint = await process.communicate(_encode(question))
    except TimeoutError as error:
        raise _refused(f"The query took longer than {_SECONDS:g} s.") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        log.warning("history.sql_failed", status=process.returncode, error=complaint.decode(errors="replace")[-2000:])
        raise _refused("The query ended its process; it may take more memory than it may have.")
    return _decoder.decode(said)


async def _started(process: asyncio.subprocess.Process) -> None:
    """Return when the process waits for its question, or has ended before."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        async with asyncio.timeout(_START_SECONDS):
            await process.stdout.readline()
    except TimeoutError as error:
        message = f"The process of the query did not start within {_START_SECONDS:g} s."
        raise LostError("unavailable", message, retry_after=1) from error


def _refused(message: str) -> RefusedError:
    return RefusedError("invalid_request", message, param="sql")
