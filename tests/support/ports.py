"""Ports for the servers of tests, of which several processes run at once."""

import fcntl
import os
import random
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

# Below those that Fusion gives to what it starts itself (bus/server.py).
_PORTS = range(10_000, 20_000)
_not_given = iter(random.SystemRandom().sample(_PORTS, len(_PORTS)))

# A byte for each port, locked by the process of pytest that was given it, until that ends.
_given = (Path(tempfile.gettempdir()) / f"fusion-tests-ports-{os.getuid()}").open("w")


def own_port() -> int:
    """Return a free TCP port of the loopback that no process of pytest was given before.

    `free_port` of Fusion knows only what its own process was given, and a server that is started, or killed and started
    again, has not bound its port for a moment.
    """
    for port in _not_given:
        with socket.socket() as probe, suppress(OSError):
            fcntl.lockf(_given, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no free port from {_PORTS.start} to {_PORTS.stop - 1}")
