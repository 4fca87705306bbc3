"""Reads the files of a language model, and never runs code that comes with them."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import msgspec
from mlx.nn.layers.base import Module
from mlx_lm.tokenizer_utils import TokenizerWrapper

from bus.errors import RefusedError


def read_model(path: Path) -> tuple[Module, TokenizerWrapper, dict[str, Any]]:
    """Return the model in the folder `path`, its tokenizer and its configuration.

    Raises `RefusedError` if there is none, or if it comes with code of its own.
    """
    if not (path / "config.json").is_file():
        raise RefusedError("model_not_found", f"There is no model {path.name}.", param="model")
    refuse_code(path)
    model, tokenizer, config = mlx_lm.load(str(path), lazy=True, return_config=True)
    if not mx.metal.is_available():
        # On a CPU only float32 is fast: bfloat16 takes 20 times as long.
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model, tokenizer, config


def read_json(file: Path) -> dict[str, Any]:
    """Return the content of `file`; nothing if it is not there."""
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Any]) if file.is_file() else {}


def refuse_code(path: Path) -> None:
    """Raise `RefusedError` if the model in `path` comes with code of its own."""
    named = [
        f"{key} in {name}"
        for name in ("config.json", "tokenizer_config.json")
        for key in ("model_file", "auto_map")
        if key in read_json(path / name)
    ]
    if found := [file.name for file in path.glob("*.py")] + named:
        raise RefusedError(
            "invalid_request",
            f"The model {path.name} comes with code of its own ({found[0]}), which is not run.",
            param="model",
        )
