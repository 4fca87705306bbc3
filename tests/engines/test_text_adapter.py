"""A model with a LoRA adapter says what mlx-lm says with both, and not what it says alone."""

import json
from pathlib import Path

import mlx.core as mx
import mlx_lm
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

from actors.catalogue import ModelFilesError
from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from tests.support import tiny_models
from tests.support.text import Reference, answer, greedy, text

pytestmark = pytest.mark.asyncio(loop_scope="session")

LORA = {"rank": 4, "scale": 10.0, "dropout": 0.5}


def adapter_of(model: Path, folder: Path) -> Path:
    """Write an adapter of random numbers, as mlx_lm.lora does after training. New ones would change nothing."""
    module, _ = mlx_lm.load(str(model))
    module.freeze()
    linear_to_lora_layers(module, 2, LORA)
    shapes = {name: array.shape for name, array in tree_flatten(module.trainable_parameters())}
    keys = mx.random.split(mx.random.key(3), len(shapes))
    weights = {
        name: 0.3 * mx.random.normal(shape, key=key) for (name, shape), key in zip(shapes.items(), keys, strict=True)
    }
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": LORA}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter_of(tiny_llama, tmp_path_factory.mktemp("adapters") / "adapter")


async def test_it_says_what_mlx_lm_says_with_the_adapter(
    tiny_llama: Path, adapter: Path, text_engine: TextEngine
) -> None:
    reference = Reference(tiny_llama, adapter)
    await reference.load()
    engine = TextEngine(tiny_llama, TextLimits(adapter=adapter, warmup=False))
    await engine.load()

    said = await text(engine, greedy("Hello"))

    assert said == await reference.greedy("Hello", 24)
    assert said != await text(text_engine, greedy("Hello"))
    await engine.unload()
    await reference.close()


async def test_what_was_read_without_the_adapter_is_not_kept_for_it(
    tiny_llama: Path, adapter: Path, tmp_path: Path
) -> None:
    prompt = tuple(range(2, 130))
    cached = []
    for each in (None, adapter, adapter):
        limits = TextLimits(adapter=each, prefix_folder=tmp_path / "prefixes", warmup=False)
        engine = TextEngine(tiny_llama, limits)
        await engine.load()
        _, last = await answer(engine, greedy(prompt))
        cached.append(last.usage.cached_tokens)
        await engine.unload()

    assert cached == [0, 0, 127]


async def test_adapter_of_another_model_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = tiny_models.llama(tmp_path / "other", head_dim=32)

    with pytest.raises(ModelFilesError, match=r"(?s)The adapter adapter cannot be used.*does not match"):
        await TextEngine(other, TextLimits(adapter=adapter)).load()


@pytest.mark.parametrize("name", ["adapters.safetensors", "adapter_config.json"])
async def test_adapter_without_all_its_files_is_refused(
    tiny_llama: Path, adapter: Path, tmp_path: Path, name: str
) -> None:
    folder = tiny_models.changed(adapter, tmp_path / "half")
    (folder / name).unlink()

    with pytest.raises(ModelFilesError, match="The adapter half cannot be used"):
        await TextEngine(tiny_llama, TextLimits(adapter=folder)).load()
