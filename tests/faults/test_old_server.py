"""A nats-server that is too old takes our streams without a word and does not keep what jobs rest on.

Debian's nats-server is one: unpack it, and name it in FUSION_OLD_NATS_SERVER.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bus.client import Bus
from bus.config import BusConfig
from bus.errors import LostError
from bus.server import server_version
from tests.support.nats import until_it
from tests.support.ports import own_port
from tests.support.processes import REPOSITORY

VARIABLE = "FUSION_OLD_NATS_SERVER"


async def test_server_that_is_too_old_is_refused_with_the_version_that_is_needed() -> None:
    async with saying("2.14.9") as url:
        with pytest.raises(LostError, match=f"{url} is version 2.14.9; Fusion needs 2.15 or newer"):
            async with Bus.connect("test", BusConfig(url=url)):
                pass


@asynccontextmanager
async def saying(version: str) -> AsyncGenerator[str]:
    """Greet clients as a nats-server of this version does."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = {"server_id": "x", "version": version, "max_payload": 2**20, "headers": True, "proto": 1}
        writer.write(b"INFO " + json.dumps(told).encode() + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"nats://{host}:{port}"


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no old nats-server")
@pytest.mark.parametrize("part", ["core", "historian", "model", "edge"])
async def test_no_part_runs_with_a_real_old_server(tmp_path: Path, part: str) -> None:
    binary, port = os.environ[VARIABLE], own_port()
    url = f"nats://127.0.0.1:{port}"
    old = await asyncio.create_subprocess_exec(binary, "-p", str(port), "-js", "-sd", str(tmp_path / "nats"))
    try:
        await until_it(lambda: _listens(port))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "run", part),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "FUSION_NATS_URL": url, "FUSION_STATE_DIR": str(tmp_path), "FUSION_PORT": "0"},
            cwd=REPOSITORY,
        )
        _, said = await process.communicate()
    finally:
        old.terminate()
        await old.wait()

    assert process.returncode == 1
    version = ".".join(map(str, server_version(binary)))
    assert f"{url} is version {version}; Fusion needs 2.15 or newer." in said.decode()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
