"""Reads the files of a language model, and of its adapter."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
from mlx.nn.layers.base import Module
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_adapters

from actors.catalogue import ModelFilesError
from actors.model_files import check_files
from bus.errors import RefusedError

# What mlx-lm and mlx raise for an adapter of another model, or for half of one.
_UNFIT = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


def read_model(
    path: Path, adapter: Path | None = None, *, trust_code: bool = False
) -> tuple[Module, TokenizerWrapper, dict[str, Any]]:
    """Return the model in the folder `path`, its tokenizer and its configuration.

    The code that may come with it is run only with `trust_code`. Raises `RefusedError` if there is no model, and
    `ModelFilesError` for files that should not be read and for an adapter that does not fit.
    """
    if not (path / "config.json").is_file():
        raise RefusedError("model_not_found", f"There is no model {path.name}.", param="model")
    check_files(path, trust_code=trust_code)
    model, tokenizer, config = mlx_lm.load(
        str(path),
        tokenizer_config={"trust_remote_code": trust_code},
        lazy=True,
        return_config=True,
        trust_remote_code=trust_code,
    )
    if adapter is not None:
        _adapt(model, adapter)
    if not mx.metal.is_available():
        # On a CPU only float32 is fast: bfloat16 takes 20 times as long.
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model, tokenizer, config


def _adapt(model: Module, adapter: Path) -> None:
    check_files(adapter)
    try:
        load_adapters(model, str(adapter))
    except _UNFIT as error:
        raise ModelFilesError(f"The adapter {adapter.name} cannot be used with its model: {error}") from error
    # The layers that it has added would drop numbers at random, as in training.
    model.eval()
