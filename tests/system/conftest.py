"""A real nats-server for each test, and edges before models with weights."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.engines.blas import prepare_blas

# Before anything here imports mlx.
prepare_blas()

from actors.engines.text import TextEngine  # noqa: E402 - imports mlx
from actors.engines.text_model import TextLimits  # noqa: E402 - imports mlx
from tests.support import tiny_models  # noqa: E402 - stays with the others
from tests.support.nats import Server, server_running  # noqa: E402 - stays with the others
from tests.support.stack import CHAT_MODEL, Stack, chat_actor, stack  # noqa: E402 - stays with the others

TOY = Path(__file__).parents[2] / "models" / "fusion-toy"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[Server]:
    async with server_running(tmp_path) as server:
        yield server


@pytest.fixture
async def nats_url(server: Server) -> str:
    return server.url


@pytest.fixture
async def tiny_edge(nats_url: str, tmp_path: Path) -> AsyncGenerator[Stack]:
    """An edge before a model of random weights."""
    async with _edge_before(tiny_models.llama(tmp_path / "tiny"), nats_url, tmp_path) as edge:
        yield edge


@pytest.fixture
async def toy_edge(nats_url: str, tmp_path: Path) -> AsyncGenerator[Stack]:
    """An edge before the model that ships with Fusion."""
    async with _edge_before(TOY, nats_url, tmp_path) as edge:
        yield edge


@pytest.fixture
async def ending_bias(toy_edge: Stack) -> dict[str, int]:
    """Return a `logit_bias` that has the toy end an object at once; it would go on for ever."""
    bias = {}
    for brace, value in (("{", 50), ("}", 100)):
        async with toy_edge.http.post("/v1/tokenize", json={"model": CHAT_MODEL, "prompt": brace}) as response:
            (token,) = (await response.json())["tokens"]
        bias[str(token)] = value
    return bias


@asynccontextmanager
async def _edge_before(model: Path, nats_url: str, folder: Path) -> AsyncGenerator[Stack]:
    engine = TextEngine(model, TextLimits(warmup=False))
    async with stack(nats_url, folder) as edge, chat_actor(edge.bus, engine):
        yield edge
    await engine.unload()
