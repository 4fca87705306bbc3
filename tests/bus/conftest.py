"""A real nats-server for each test."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.nats import Server, server_running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[Server]:
    async with server_running(tmp_path) as server:
        yield server
