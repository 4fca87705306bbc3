"""Writes a model that reads pictures in fewer bits a weight: what it says of texts, not what it sees with.

The libraries' own converters leave vision as it is too; they cannot read an embedding model without a head for words,
nor a SigLIP whose folder is not named after its sizes.
"""

import json
from pathlib import Path
from typing import Final

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from actors.engines.pictures_folder import read_picture_folder
from actors.engines.pictures_qwen import load_qwen
from actors.engines.pictures_siglip import load_siglip
from actors.model_files import read_json

_GROUP: Final = 64


def write_quantised(source: Path, target: Path, bits: int) -> None:
    """Write weights and config.json of the model in `source` to `target`.

    Raises `RefusedError`, `ModelFilesError` or `ValueError` for a folder that cannot be read.
    """
    folder = read_picture_folder(source)
    model = load_siglip(folder) if folder.family == "siglip" else load_qwen(folder)
    packing = {"group_size": _GROUP, "bits": bits, "mode": "affine"}
    nn.quantize(model, **packing, class_predicate=_is_packed)  # type: ignore[attr-defined]  # mlx has no types for it
    target.mkdir(parents=True, exist_ok=True)
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})
    config = read_json(source / "config.json") | {"quantization": packing}
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _is_packed(path: str, module: object) -> bool:
    rows: mx.array | None = getattr(module, "weight", None)
    can = hasattr(module, "to_quantized") and rows is not None and rows.shape[-1] % _GROUP == 0
    return can and not path.startswith("vision")
