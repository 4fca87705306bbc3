"""Reads what a file of weights says of itself, and nothing of the weights.

The safetensors library holds the header against the file: at most 100 MB of JSON, known dtypes, and tensors that cover
the rest of the file without holes or overlaps. mlx checks less. A file of 30,000 tensors takes 0.1 s.
"""

import re
from math import prod
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from actors.catalogue import ModelFilesError


class Tensor(NamedTuple):
    """One tensor of a file. `dtype` is spelled as in the format: `BF16`, `U32`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """What it takes. The format spells the bits of a number in the name of its type, except for BOOL."""
        bits = re.search(r"\d+", self.dtype)
        return self.size * int(bits[0] if bits else 8) // 8


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of `file` by their names. Raises `ModelFilesError` if it is not whole."""
    if not file.is_file():  # A pipe would be waited for.
        raise ModelFilesError(f"{file}: there is no such file.")
    try:
        with safe_open(file, "np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
            return {name: Tensor(each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ModelFilesError(f"{file} is damaged: {error}") from error
