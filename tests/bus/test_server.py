"""The child server: never a stranger, never an old one, never left behind."""

import asyncio
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from bus.client import settled
from bus.errors import LostError
from bus.server import (
    OLDEST,
    ServerConfig,
    ServerError,
    binary,
    free_port,
    locked,
    running,
    server_run,
    server_version,
)
from tests.support.nats import Server, connected, nats_server_below
from tests.support.ports import own_port
from tests.support.processes import gone

REPOSITORY = Path(__file__).parents[2]


def config(folder: Path, **fields: object) -> ServerConfig:
    values = {"store": folder / "own", "port": own_port(), "monitor_port": own_port(), "name": "own"}
    return ServerConfig(**(values | fields))  # type: ignore[arg-type]


def script(path: Path, prints: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o700)
    return path


def test_ports_asked_for_together_differ() -> None:
    ports = [free_port() for _ in range(500)]

    assert len(set(ports)) == 500


async def test_server_answers_and_is_gone_at_the_end(tmp_path: Path) -> None:
    mine = config(tmp_path)
    async with running(mine, tmp_path / "log") as process, connected(mine.url) as bus:
        family = psutil.Process(process.pid).children(recursive=True)
        await settled(bus.nc)

    assert await gone(family, 60) == []
    assert process.returncode is not None


async def test_server_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib\n"
        "from bus.server import ServerConfig, free_port, running\n"
        "async def main():\n"
        f"    folder = pathlib.Path({str(tmp_path)!r})\n"
        "    config = ServerConfig(store=folder/'s', port=free_port(), monitor_port=free_port(), name='x', sync='2m')\n"
        "    async with running(config, folder / 'log') as process:\n"
        "        print(process.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    assert parent.stdout is not None
    async with asyncio.timeout(60):
        guard = psutil.Process(int(await parent.stdout.readline()))
    server = nats_server_below(guard.pid)

    parent.send_signal(signal.SIGKILL)

    await parent.communicate()
    assert await gone([server], 60) == []


async def test_server_that_ends_by_itself_is_an_error_for_the_supervisor(tmp_path: Path) -> None:
    ready = asyncio.Event()
    mine = config(tmp_path)
    life = asyncio.ensure_future(server_run(mine, tmp_path / "log", ready.set)())
    await ready.wait()
    (guard,) = [one for one in psutil.Process().children() if one.name() == "sh"]
    nats_server_below(guard.pid).kill()

    with pytest.raises(LostError, match="ended with status 137") as lost:
        await life

    assert lost.value.code == "crashed"


def test_second_fusion_on_one_state_folder_is_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "state"),
        pytest.raises(ServerError, match="Another Fusion is running on the state folder"),
        locked(tmp_path / "state"),
    ):
        pass

    with locked(tmp_path / "state"):
        pass


def test_server_that_is_found_is_new_enough() -> None:
    assert server_version(binary()) >= OLDEST


def test_old_server_is_known_by_its_version(tmp_path: Path) -> None:
    old = script(tmp_path / "nats-server", "nats-server: v2.9.10")

    assert server_version(str(old)) == (2, 9, 10)
    assert server_version(str(old)) < OLDEST


def test_old_server_on_the_path_is_refused(tmp_path: Path) -> None:
    script(tmp_path / "nats-server", "nats-server: v2.9.10")

    with pytest.raises(ServerError, match=r"is version 2\.9\.10; Fusion needs 2\.15"):
        binary(tmp_path)


def test_program_that_is_no_nats_server_is_refused(tmp_path: Path) -> None:
    other = script(tmp_path / "nats-server", "hello")

    with pytest.raises(ServerError, match="does not look like nats-server"):
        server_version(str(other))


async def test_port_of_another_nats_server_is_known_by_its_name(server: Server, tmp_path: Path) -> None:
    mine = config(tmp_path, monitor_port=server.config.monitor_port)

    with pytest.raises(ServerError, match=rf"belongs to another nats-server, named {server.config.name}"):
        async with running(mine, tmp_path / "log"):
            pass


async def test_client_port_that_is_taken_is_an_error(server: Server, tmp_path: Path) -> None:
    mine = config(tmp_path, port=server.config.port)

    with pytest.raises(ServerError, match="nats-server ended with status 1"):
        async with running(mine, tmp_path / "log"):
            pass


async def test_monitor_port_that_speaks_no_http_is_an_error(server: Server, tmp_path: Path) -> None:
    mine = config(tmp_path, monitor_port=server.config.port)

    with pytest.raises(ServerError, match="nats-server ended with status 1"):
        async with running(mine, tmp_path / "log"):
            pass


async def test_monitor_port_of_another_web_server_is_an_error(tmp_path: Path) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    stranger = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=stranger.serve_forever, args=(0.01,))
    thread.start()
    mine = config(tmp_path, monitor_port=stranger.server_port)

    try:
        with pytest.raises(ServerError, match="nats-server ended with status 1"):
            async with running(mine, tmp_path / "log"):
                pass
    finally:
        stranger.shutdown()
        thread.join()
        stranger.server_close()
