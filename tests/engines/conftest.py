from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from actors.engines.blas import prepare_blas

# Before anything here imports mlx.
prepare_blas()

from actors.engines.text import TextEngine  # noqa: E402 - imports mlx
from actors.engines.text_model import TextLimits  # noqa: E402 - imports mlx
from tests.support import tiny_models  # noqa: E402 - stays with the others
from tests.support.text import Reference, loaded  # noqa: E402 - imports mlx

TOY = Path(__file__).parents[2] / "models" / "fusion-toy"


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.thinking(tmp_path_factory.mktemp("models") / "tiny-thinker")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def thinking_engine(tiny_thinker: Path) -> AsyncGenerator[TextEngine]:
    async with loaded(tiny_thinker) as engine:
        yield engine


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def text_engine(tiny_llama: Path) -> AsyncGenerator[TextEngine]:
    engine = TextEngine(tiny_llama, TextLimits())
    await engine.load()
    yield engine
    await engine.unload()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def toy() -> AsyncGenerator[TextEngine]:
    async with loaded(TOY) as engine:
        yield engine


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def reference(tiny_llama: Path) -> AsyncGenerator[Reference]:
    reference = Reference(tiny_llama)
    await reference.load()
    yield reference
    await reference.close()


@pytest_asyncio.fixture(loop_scope="session")
async def own_engine(tiny_llama: Path) -> AsyncGenerator[TextEngine]:
    """An engine with two places that reads prompts in small pieces, and which the test may break."""
    engine = TextEngine(tiny_llama, TextLimits(max_batch=2, prefill_step=16))
    await engine.load()
    yield engine
    await engine.unload()
