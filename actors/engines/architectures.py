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


def is_cpu() -> bool:
    """Say whether mlx computes on the CPU, where only float32 is fast."""
    return mx.default_device() == mx.Device(mx.cpu)


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

    On the CPU packed ones are unpacked: a quantised product takes 3 to 10 times as long as one in float32 there.
    Raises `ValueError` for weights that do not fit.
    """
    if quantisation and is_cpu():
        weights = _unpacked(weights, quantisation)
    elif quantisation:

        def packing(path: str, module: object) -> Any:
            is_packed = hasattr(module, "to_quantized") and f"{path}.scales" in weights
            return is_packed and _packing(path, quantisation)

        nn.quantize(model, class_predicate=packing)  # type: ignore[attr-defined]  # mlx has no types for its modules
    model.load_weights(list(weights.items()))
    model.eval()


def read(model: Any) -> list[mx.array]:
    """Read the weights of `model` and return them. On the CPU they are widened to float32."""
    if is_cpu():
        model.set_dtype(mx.float32)
    # Its other arrays too, such as frequencies: only what has been computed may be used on another thread.
    mx.eval(model)
    return list(dict(tree_flatten(model.parameters())).values())


def dtype_of(arrays: Sequence[mx.array]) -> str:
    """Return the type of the numbers that are not packed: "float32" or alike."""
    return str(next(array.dtype for array in arrays if mx.issubdtype(array.dtype, mx.floating))).rpartition(".")[2]


def _packing(path: str, quantisation: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the layer `path` is packed: some have a way of their own."""
    own = quantisation.get(path)
    said = own if isinstance(own, dict) else quantisation
    return {"group_size": said["group_size"], "bits": said["bits"], "mode": said.get("mode", "affine")}


def _unpacked(weights: Arrays, quantisation: Mapping[str, Any]) -> Arrays:
    packed = [name.removesuffix(".scales") for name in weights if name.endswith(".scales")]
    rest = dict(weights)
    for path in packed:
        parts = rest.pop(f"{path}.weight"), rest.pop(f"{path}.scales"), rest.pop(f"{path}.biases", None)
        rest[f"{path}.weight"] = mx.dequantize(*parts, **_packing(path, quantisation))
    return rest


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
