"""What the weights of a model are, from the headers of their files: how many, how large, in which format."""

from collections import Counter
from pathlib import Path

from msgspec import Struct

from actors.catalogue import ModelFilesError
from actors.model_config import ModelConfig
from actors.model_quantisation import Quantised, quantised
from actors.safetensors_header import Tensor, read_tensors

# mlx-lm reads the first of these, and nothing else; whisper has the second; the parts of image models lie in folders.
_FILES = ("model*.safetensors", "weights*.safetensors", "*.safetensors", "*/*.safetensors")

# What packed weights come with, in mlx-lm's own layout and in those that it reads: gpt-oss, fp8, GPTQ and AWQ.
_SCALES = (".scales", ".biases", "_scales", "_scale", "_scale_inv", ".qzeros", ".g_idx")
_PACKED = ("U32", "I32", "U8")

# The names that mlx and numpy give the types of the format.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Weights(Struct, frozen=True, kw_only=True):
    """All weights of a model together.

    `parameters` counts weights, of which a packed number holds several; `size_bytes` is what the tensors take.
    `floats` of those numbers, which take `float_bytes`, are not packed. `dtype` is that of most of them.
    """

    parameters: int
    size_bytes: int
    floats: int
    float_bytes: int
    dtype: str | None
    quantisation: str | None


def read_weights(folder: Path, config: ModelConfig, without: tuple[str, ...] = ()) -> Weights:
    """Return what the files say of the weights in `folder`, except for those whose names begin as one of `without`.

    Raises `ModelFilesError`.
    """
    named = (tensor for file in weight_files(folder) for tensor in read_tensors(file).items())
    tensors = [(name, tensor) for name, tensor in named if not name.startswith(without)]
    packing = quantised(config)
    floats = [tensor for _, tensor in tensors if tensor.dtype in _DTYPES]
    numbers = Counter[str]()
    for tensor in floats:
        numbers[tensor.dtype] += tensor.size
    return Weights(
        parameters=sum(_count(name, tensor, packing) for name, tensor in tensors),
        size_bytes=sum(tensor.size_bytes for _, tensor in tensors),
        floats=numbers.total(),
        float_bytes=sum(tensor.size_bytes for tensor in floats),
        dtype=_DTYPES[numbers.most_common(1)[0][0]] if numbers else None,
        quantisation=packing and packing.name,
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights of the model in `folder`. Raises `ModelFilesError` if there are none."""
    for pattern in _FILES:
        if files := sorted(folder.glob(pattern)):
            return files
    raise ModelFilesError(f"{folder} has no weights in the safetensors format.")


def _count(name: str, tensor: Tensor, packing: Quantised | None) -> int:
    if packing and name.endswith(_SCALES):
        return 0
    if packing and tensor.dtype in _PACKED:
        return tensor.size_bytes * 8 // packing.bits_of(name)
    return tensor.size if tensor.dtype.startswith(("F", "BF")) else 0
