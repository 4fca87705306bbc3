"""Brings a model's files to this machine: fetches them from the hub, and quantises them, as its entry says.

A program of its own: its memory comes back, and it can be killed. `python -m actors.fetch ENTRY`, where ENTRY is the
entry of the catalogue as JSON; the last line on stderr says why it failed.
"""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE

import msgspec

from actors.catalogue import ModelFilesError, draft_folder, model_folder
from bus.messages.catalogue import ModelEntry
from bus.process import PARENT_PIPE, end_with_parent


async def fetch(entry: ModelEntry) -> None:
    """Run the program for `entry`. Raises `ModelFilesError`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "actors.fetch", msgspec.json.encode(entry).decode()),
        stdin=PIPE,  # It ends when our end closes, however we die.
        stdout=DEVNULL,
        stderr=PIPE,
        env=os.environ | {PARENT_PIPE: "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )
    try:
        assert process.stderr is not None  # noqa: S101 - it is a pipe
        said = await process.stderr.read()
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status:
        lines = said.decode(errors="replace").strip().splitlines()
        raise ModelFilesError(lines[-1] if lines else f"Fetching {entry.id} ended with status {status}.")


def main() -> None:
    """Do it."""
    end_with_parent()
    entry = msgspec.json.decode(sys.argv[1], type=ModelEntry)
    try:
        model_folder(entry)
        draft_folder(entry)
    except ModelFilesError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
