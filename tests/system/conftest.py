"""A real nats-server for each test."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from bus.ids import new_id
from bus.server import ServerConfig, free_port, running


@pytest.fixture
async def nats_url(tmp_path: Path) -> AsyncGenerator[str]:
    config = ServerConfig(store=tmp_path / "nats", port=free_port(), monitor_port=free_port(), name=new_id("test"))
    async with running(config, tmp_path / "nats.log"):
        yield config.url
