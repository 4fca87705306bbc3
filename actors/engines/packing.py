"""Writes models that no library's converter reads in fewer bits a weight: those for pictures, and cross-encoders.

The libraries' converters cannot read an embedding model without a head for words, a SigLIP whose folder is not named
after its sizes, or a classifier. They leave vision as it is too.
"""

import json
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from actors.engines.pictures_folder import read_picture_folder
from actors.engines.pictures_qwen import load_qwen
from actors.engines.pictures_siglip import load_siglip
from actors.engines.rerank_folder import RerankFolder
from actors.engines.rerank_model import CrossEncoder
from actors.model_files import read_json

_GROUP: Final = 64

# What a model sees with, and what turns the last states of a cross-encoder into a score.
_LEFT: Final = ("vision", "classifier", "head", "pooler")


def write_pictures(source: Path, target: Path, bits: int) -> None:
    """Write weights and config.json of the model for pictures in `source` to `target`, but for its vision.

    Raises `RefusedError`, `ModelFilesError` or `ValueError` for a folder that cannot be read.
    """
    folder = read_picture_folder(source)
    model = load_siglip(folder) if folder.family == "siglip" else load_qwen(folder)
    _write(model, source, target, bits)


def write_cross_encoder(folder: RerankFolder, target: Path, bits: int) -> None:
    """Write weights and config.json of the cross-encoder in `folder` to `target`, but for its classifier.

    Raises `ModelFilesError` or `ValueError` for weights that cannot be read.
    """
    _write(CrossEncoder(folder).module, folder.path, target, bits)


def _write(model: Any, source: Path, target: Path, bits: int) -> None:
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
    return can and not path.startswith(_LEFT)
