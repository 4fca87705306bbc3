"""The limits of processes that read files, where the system knows none itself."""

import subprocess
import sys

from tests.support.processes import REPOSITORY

TAKING = """
import threading
from actors.limited_child import watch_memory

threading.Thread(target=watch_memory, args=(256 * 2**20,), daemon=True).start()
small = bytearray(2**20)
print("small", flush=True)
large = b"x" * (512 * 2**20)
threading.Event().wait(600)
"""


def test_process_that_takes_too_much_memory_ends_itself() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TAKING], cwd=REPOSITORY, check=False, capture_output=True, timeout=240, text=True
    )

    assert (ended.returncode, ended.stdout) == (1, "small\n")
