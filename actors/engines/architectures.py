"""Imports the model code of the mlx libraries, and reads weights into it. Runs on the engine thread.

The libraries' own loaders import transformers, for 2 to 4 seconds, and some run code that lies beside the weights.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from actors.model_weights import weight_files

Arrays = dict[str, mx.array]


def architecture(module: str, *strangers: str) -> ModuleType:
    """Import `module` of a library; the packages above it, and the modules `strangers`, stay empty.

    Raises `ImportError` if the library is not installed.
    """
    above = module.split(".")[:-1]
    names = [".".join(above[: count + 1]) for count in range(len(above))]
    with _empty((*names, *strangers)):
        return import_module(module)


def weights_in(folder: Path) -> Arrays:
    """Return the arrays of the safetensors files, not read yet. Raises `ModelFilesError` if there are none."""
    weights: Arrays = {}
    for file in weight_files(folder):
        # Its type covers the other formats too.
        weights.update(cast("Arrays", mx.load(str(file))))
    return weights


def fill(model: Any, weights: Arrays, quantisation: Mapping[str, Any] | None) -> None:
    """Give `model`, a module of mlx, its weights, packed as config.json says in `quantisation`; they are not read yet.

    Raises `ValueError` for weights that do not fit.
    """
    if quantisation:

        def packing(path: str, module: object) -> Any:
            is_packed = hasattr(module, "to_quantized") and f"{path}.scales" in weights
            return quantisation.get(path, is_packed)

        nn.quantize(  # type: ignore[attr-defined]  # mlx has no types for its modules
            model,
            group_size=quantisation["group_size"],
            bits=quantisation["bits"],
            mode=quantisation.get("mode", "affine"),
            class_predicate=packing,
        )
    model.load_weights(list(weights.items()))
    model.eval()


def read(model: Any, quantisation: Mapping[str, Any] | None) -> list[mx.array]:
    """Read the weights of `model` and return them. On the CPU packed ones are unpacked, and all widened to float32."""
    if mx.default_device() == mx.Device(mx.cpu):
        if quantisation:
            # A quantised product takes 3 to 10 times as long as one in float32 there.
            import_module("mlx_lm.utils").dequantize_model(model)
        model.set_dtype(mx.float32)
    weights: list[mx.array] = list(dict(tree_flatten(model.parameters())).values())
    mx.eval(weights)
    return weights


def dtype_of(arrays: Sequence[mx.array]) -> str:
    """Return the type of the numbers that are not packed: "float32" or alike."""
    return str(next(array.dtype for array in arrays if mx.issubdtype(array.dtype, mx.floating))).rpartition(".")[2]


@contextmanager
def _empty(names: tuple[str, ...]) -> Iterator[None]:
    """Let `names` be modules without content for a while, except for those that somebody has imported."""
    added = []
    try:
        for name in names:
            if name in sys.modules:
                continue
            spec = find_spec(name)
            if spec is None:
                raise ImportError(f"{name} is not installed; the extra 'embeddings' brings it")
            sys.modules[name] = module_from_spec(spec)
            added.append(name)
        yield
    finally:
        for name in added:
            del sys.modules[name]
