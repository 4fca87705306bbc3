"""Writes a model in fewer bits a weight: `python -m actors.engines.quantisation KIND BITS SOURCE TARGET`.

A program of its own, which actors/conversion.py runs; the last line on stderr says why it failed.
"""

import json
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from safetensors import safe_open

from actors.conversion import made_once
from actors.engines.blas import prepare_blas
from bus.errors import RefusedError
from bus.process import end_with_parent

# What belongs to a model besides its weights and config.json; the second is that of sentence-transformers' modules.
_SETTINGS = ("*.json", "*/config.json", "*.txt", "*.model", "*.jinja")


def main() -> None:
    """Do it, unless somebody else has done it meanwhile."""
    end_with_parent()
    prepare_blas()
    kind, bits, source, target = sys.argv[1:]
    try:
        made_once(Path(source), Path(target), lambda draft: _write(kind, int(bits), Path(source), draft))
    except (RefusedError, ValueError, OSError) as error:
        sys.exit(str(error))


def _write(kind: str, bits: int, source: Path, target: Path) -> None:
    quantise: dict[str, Callable[[Path, Path, int], None]] = {"chat": _chat, "embeddings": _embeddings}
    quantise[kind](source, target, bits)
    if not any(_has_scales(file) for file in target.glob("*.safetensors")):
        raise ValueError("no row of its weights is a multiple of 64 long, which is how they are quantised")
    _bring_settings(source, target)


def _chat(source: Path, target: Path, bits: int) -> None:
    from mlx_lm import convert  # noqa: PLC0415 - after the BLAS

    from actors.engines.text_folder import refuse_code  # noqa: PLC0415 - the same

    refuse_code(source)
    convert(str(source), str(target), quantize=True, q_bits=bits)


def _embeddings(source: Path, target: Path, bits: int) -> None:
    from actors.engines.embeddings_folder import read_folder  # noqa: PLC0415 - needed for this kind only

    read_folder(source)
    config = json.loads((source / "config.json").read_bytes())
    # Its default is float16, whose range some families exceed.
    dtype = config.get("torch_dtype") or config.get("dtype") or "float32"
    import_module("mlx_embeddings.convert").convert(str(source), str(target), quantize=True, q_bits=bits, dtype=dtype)


def _has_scales(file: Path) -> bool:
    with safe_open(file, framework="numpy") as weights:
        return any(name.endswith(".scales") for name in weights.keys())  # noqa: SIM118 - it is no dict


def _bring_settings(source: Path, target: Path) -> None:
    """Take all files but weights and config.json from the source: the libraries write some anew, and leave some out."""
    for file in target.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            file.unlink()
    for pattern in _SETTINGS:
        for file in source.glob(pattern):
            name = file.relative_to(source)
            if not (target / name).exists() and not file.name.endswith(".index.json"):
                (target / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target / name)


if __name__ == "__main__":
    main()
