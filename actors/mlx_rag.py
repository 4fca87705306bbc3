"""Turns the layout of vegaluisjose/mlx-rag into that of sentence-transformers.

It is the default embedding model of the seeds. The repository holds gte-large, a BERT, as `model.npz` with names
of its own, a `config.json` with other keys, and no tokenizer: its code (github.com/vegaluisjose/mlx-rag, model.py)
takes that of thenlper/gte-large, pools by the mean and normalises.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save_file

from actors.conversion import made_once

TOKENIZER_REPOSITORY = "thenlper/gte-large"

_LAYER = {
    "attention.query_proj": "attention.self.query",
    "attention.key_proj": "attention.self.key",
    "attention.value_proj": "attention.self.value",
    "attention.out_proj": "attention.output.dense",
    "ln1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "ln2": "output.LayerNorm",
}


class _Config(msgspec.Struct):
    dim: int
    num_attention_heads: int = 16
    num_hidden_layers: int = 24
    vocab_size: int = 30522
    layer_norm_eps: float = 1e-12
    max_position_embeddings: int = 512


def is_mlx_rag(folder: Path) -> bool:
    """Say whether `folder` has this layout."""
    return (folder / "model.npz").is_file() and "dim" in json.loads((folder / "config.json").read_bytes())


def convert(folder: Path, tokenizer: Path, target: Path) -> Path:
    """Write the model in `folder` to `target`, with the tokenizer of the folder `tokenizer`; return `target`.

    Does nothing when `target` is there: it appears whole or not at all. Raises `ValueError` for weights that
    are not of this layout.
    """
    return made_once(folder, target, lambda draft: _write(folder, tokenizer, draft))


def name_in_bert(name: str) -> str:
    """Return the name that the parameter `name` of this layout has in Hugging Face's BERT. Raises `ValueError`."""
    layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if layer and layer[2] in _LAYER:
        return f"encoder.layer.{layer[1]}.{_LAYER[layer[2]]}.{layer[3]}"
    if name.startswith("embeddings.norm."):
        return name.replace(".norm.", ".LayerNorm.")
    if name.startswith("pooler."):
        return name.replace("pooler.", "pooler.dense.")
    if name.startswith("embeddings."):
        return name
    raise ValueError(f"{name} is no parameter of the mlx-rag layout")


def _write(folder: Path, tokenizer: Path, target: Path) -> None:
    config = msgspec.json.decode((folder / "config.json").read_bytes(), type=_Config)
    with np.load(folder / "model.npz") as stored:
        weights = {name_in_bert(name): np.ascontiguousarray(stored[name]) for name in stored.files}
    target.mkdir()
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    width = weights["encoder.layer.0.intermediate.dense.weight"].shape[0]
    files: dict[str, Any] = {
        "config.json": {
            "model_type": "bert",
            "hidden_size": config.dim,
            "num_attention_heads": config.num_attention_heads,
            "num_hidden_layers": config.num_hidden_layers,
            "intermediate_size": width,
            "vocab_size": config.vocab_size,
            "layer_norm_eps": config.layer_norm_eps,
            "max_position_embeddings": config.max_position_embeddings,
        },
        "modules.json": [
            {"type": "sentence_transformers.models.Transformer", "path": ""},
            {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
            {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
        ],
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
    }
    for name, content in files.items():
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text(json.dumps(content), encoding="utf-8")
    shutil.copyfile(tokenizer / "tokenizer.json", target / "tokenizer.json")
