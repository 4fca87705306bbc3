"""Model code of other libraries without the rest of them, and the weights that belong in it."""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import cast

import mlx.core as mx


def is_cpu() -> bool:
    """Return whether mlx computes on the CPU, where only float32 is fast."""
    return mx.default_device() == mx.Device(mx.cpu)


def architecture(package: str, family: str) -> ModuleType:
    """Import `<package>.models.<family>` without the `__init__` of the package, which imports transformers for 2.5 s.

    Raises `ImportError` if the package is not installed.
    """
    spec = find_spec(package)
    if spec is None:
        raise ImportError(f"{package.replace('_', '-')} is not installed; the extra 'embeddings' brings it")
    is_stranger = package not in sys.modules
    sys.modules.setdefault(package, module_from_spec(spec))
    try:
        return import_module(f"{package}.models.{family}")
    finally:
        if is_stranger:
            del sys.modules[package]


def read_weights(path: Path) -> dict[str, mx.array]:
    """Return the weights in the folder `path`. Raises `FileNotFoundError` without any."""
    files = sorted(path.glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{path} holds no model*.safetensors")
    weights: dict[str, mx.array] = {}
    for file in files:
        # Its type covers the other formats too.
        weights.update(cast("dict[str, mx.array]", mx.load(file)))
    return weights
