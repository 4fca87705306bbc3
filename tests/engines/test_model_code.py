"""No engine runs code that comes with a model, unless it is trusted."""

from pathlib import Path

import pytest

from actors.catalogue import ModelFilesError
from actors.engines.embeddings import EmbeddingEngine, EmbeddingLimits
from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from tests.support import tiny_models
from tests.support.text import greedy, text
from tests.support.tiny_bert import write_tiny_bert

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONFIGS = ("config", "tokenizer_config")
AUTO_MAP = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}
KEYS = ({"model_file": "evil.py"}, {"auto_map": AUTO_MAP})

# What mlx-lm asks of a model's own code; whoever imports it can be seen to have done so.
LLAMA = "import pathlib\npathlib.Path({!r}).touch()\nfrom mlx_lm.models.llama import Model, ModelArgs\n"


def evil(model: Path, folder: Path, name: str, said: dict[str, object]) -> Path:
    """Return the file that the code of the model in `folder` would write."""
    written = folder.parent / "was-run"
    tiny_models.changed(model, folder, **{name: said})
    (folder / "evil.py").write_text(LLAMA.format(str(written)))
    return written


@pytest.mark.parametrize("has_script", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("said", KEYS)
async def test_chat_never_runs_code_of_a_model(
    tiny_llama: Path, tmp_path: Path, name: str, said: dict[str, object], has_script: bool
) -> None:
    written = evil(tiny_llama, tmp_path / "evil", name, said)
    if not has_script:
        (tmp_path / "evil" / "evil.py").rename(tmp_path / "evil" / "evil.txt")

    with pytest.raises(ModelFilesError, match="code of its own"):
        await TextEngine(tmp_path / "evil", TextLimits()).load()

    assert not written.exists()


async def test_nor_that_of_a_draft_model(tiny_llama: Path, tmp_path: Path) -> None:
    written = evil(tiny_llama, tmp_path / "evil", "config", {"model_file": "evil.py"})

    with pytest.raises(ModelFilesError, match="code of its own"):
        await TextEngine(tiny_llama, TextLimits(draft=tmp_path / "evil", trust_code=True)).load()

    assert not written.exists()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("said", KEYS)
async def test_embeddings_never_run_code_of_a_model(tmp_path: Path, name: str, said: dict[str, object]) -> None:
    written = evil(write_tiny_bert(tmp_path / "bert"), tmp_path / "evil", name, said)

    with pytest.raises(ModelFilesError, match="code of its own"):
        await EmbeddingEngine(tmp_path / "evil", EmbeddingLimits()).load()

    assert not written.exists()


async def test_chat_runs_code_that_is_trusted(tiny_llama: Path, tmp_path: Path, text_engine: TextEngine) -> None:
    written = evil(tiny_llama, tmp_path / "trusted", "config", {"model_file": "evil.py"})
    engine = TextEngine(tmp_path / "trusted", TextLimits(trust_code=True, warmup=False))

    await engine.load()

    assert written.exists()
    assert await text(engine, greedy("Hello")) == await text(text_engine, greedy("Hello"))
    await engine.unload()
