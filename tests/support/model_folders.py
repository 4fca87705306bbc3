"""Folders of models that need only be read, not loaded."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CHAT: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def model_folder(folder: Path, config: dict[str, Any] | None = None, **tensors: np.ndarray[Any, Any]) -> Path:
    """Write a `config.json` and a `model.safetensors` into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CHAT if config is None else config))
    save_file(tensors or {"weight": np.zeros((2, 3), np.float32)}, folder / "model.safetensors")
    return folder


def crafted(file: Path, header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> Path:
    """Write a safetensors file with this `header`, which claims to be of this `length`."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return file


def tensor(start: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, Any]:
    """Return what a header says of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
