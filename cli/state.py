"""What a running Fusion leaves in its state folder so that other commands find it."""

import os
from datetime import datetime
from pathlib import Path

import msgspec


class NotRunningError(Exception):
    """There is no Fusion on this state folder; the message says how to start one."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Where it is reached, and its processes by name."""

    pid: int
    nats_url: str
    http_url: str
    started_at: datetime
    processes: dict[str, int] = {}


def write_running(state: Path, running: Running) -> None:
    """Note `running`, in one step for those who read."""
    draft = state / "running.json.new"
    draft.write_bytes(msgspec.json.encode(running))
    draft.replace(state / "running.json")


def forget_running(state: Path) -> None:
    """Remove the note."""
    (state / "running.json").unlink(missing_ok=True)


def read_running(state: Path) -> Running:
    """Return what was noted. Raises `NotRunningError` when there is nothing to read, or the process is gone."""
    try:
        note = (state / "running.json").read_bytes()
    except FileNotFoundError:
        note = b""
    except OSError as error:
        raise NotRunningError(f"{state} cannot be read: {error.strerror}.") from error
    try:
        running = msgspec.json.decode(note, type=Running)
        os.kill(running.pid, 0)  # What may not be sent a signal is a stranger, who has the number by now.
    except (msgspec.DecodeError, ProcessLookupError, PermissionError) as error:
        raise NotRunningError(f"No Fusion is running on {state}; `fusion up` starts one.") from error
    return running
