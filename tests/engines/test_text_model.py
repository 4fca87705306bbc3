"""What a model says of itself when it is loaded, and which cannot be."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.llama4 import Model, ModelArgs

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from bus.errors import RefusedError
from tests.support.tiny_models import VOCAB_SIZE, changed

# The smallest Llama 4 that mlx-lm builds.
LLAMA4 = {
    "attention_bias": False,
    "attention_chunk_size": 16,
    "head_dim": 8,
    "hidden_size": 16,
    "interleave_moe_layer_step": 1,
    "intermediate_size": 16,
    "intermediate_size_mlp": 16,
    "max_position_embeddings": 128,
    "model_type": "llama4_text",
    "num_attention_heads": 2,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "num_local_experts": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10_000.0,
    "use_qk_norm": False,
    "vocab_size": VOCAB_SIZE,
}


async def test_architecture_whose_texts_cannot_be_batched_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = changed(tiny_llama, tmp_path / "llama4", config={"model_type": "llama4", "text_config": LLAMA4})
    weights = tree_flatten(Model(ModelArgs.from_dict({"model_type": "llama4", "text_config": LLAMA4})).parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(weights))
    engine = TextEngine(folder, TextLimits())

    with pytest.raises(RefusedError) as refused:
        await engine.load()
    await engine.unload()

    assert str(refused.value) == "The model llama4 cannot be served: mlx-lm cannot batch texts of a llama4."


async def test_facts_are_those_of_the_folder(tiny_llama: Path) -> None:
    engine = TextEngine(tiny_llama, TextLimits(context_length=100))
    facts = await engine.load()
    await engine.unload()

    assert facts.family == "llama"
    assert facts.context_length == 100
    assert facts.dtype == "float32"
    assert 0 < (tiny_llama / "model.safetensors").stat().st_size - facts.size_bytes < 3000
