"""Writes a model in fewer bits a weight.

A program of its own, which actors/conversion.py runs; the last line on stderr says why it failed.
"""

import argparse
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from actors.catalogue import ModelFilesError
from actors.conversion import made_once
from actors.engines.blas import prepare_blas
from actors.engines.embeddings_folder import read_folder
from actors.engines.pictures_folder import reads_pictures
from actors.engines.rerank_folder import read_rerank_folder
from actors.model_files import check_files, read_json
from actors.safetensors_header import read_tensors
from bus.errors import RefusedError
from bus.process import end_with_parent

# What belongs to a model besides its weights and config.json; the second is that of sentence-transformers' modules.
_SETTINGS = ("*.json", "*/config.json", "*.txt", "*.model", "*.jinja")


def main() -> None:
    """Do it, unless somebody else has done it meanwhile."""
    end_with_parent()
    prepare_blas()
    args = _arguments()
    try:
        made_once(args.source, args.target, lambda draft: _write(args, draft))
    except (ModelFilesError, RefusedError, ValueError, OSError) as error:
        sys.exit(" ".join(str(error).split()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m actors.engines.quantisation", description=__doc__)
    parser.add_argument("kind", choices=("chat", "embeddings", "rerank"))
    parser.add_argument("bits", type=int, choices=(4, 8))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--trust-code", action="store_true", help="run the code that comes with the model")
    return parser.parse_args()


def _write(args: argparse.Namespace, draft: Path) -> None:
    check_files(args.source, trust_code=args.trust_code)
    if args.kind == "chat":
        _chat(args, draft)
    elif args.kind == "rerank":
        _rerank(args, draft)
    elif reads_pictures(args.source):
        _packing().write_pictures(args.source, draft, args.bits)
    else:
        _embeddings(args, draft)
    names = [name for file in draft.glob("*.safetensors") for name in read_tensors(file)]
    if not any(name.endswith(".scales") for name in names):
        raise ValueError("no row of its weights is a multiple of 64 long, and they are quantised by 64")
    _bring_settings(args.source, draft, (*_SETTINGS, "*.py") if args.trust_code else _SETTINGS)


def _chat(args: argparse.Namespace, draft: Path) -> None:
    from mlx_lm import convert  # noqa: PLC0415 - after the BLAS

    trust = args.trust_code
    convert(str(args.source), str(draft), quantize=True, q_bits=args.bits, trust_remote_code=trust)


def _embeddings(args: argparse.Namespace, draft: Path) -> None:
    read_folder(args.source)
    config = read_json(args.source / "config.json")
    # Its default is float16, whose range some families exceed.
    dtype = config.get("torch_dtype") or config.get("dtype") or "float32"
    convert = import_module("mlx_embeddings.convert").convert
    convert(str(args.source), str(draft), quantize=True, q_bits=args.bits, dtype=dtype)


def _rerank(args: argparse.Namespace, draft: Path) -> None:
    folder = read_rerank_folder(args.source)
    if folder.is_generative:
        _chat(args, draft)
    else:
        _packing().write_cross_encoder(folder, draft, args.bits)


def _packing() -> Any:
    # After the BLAS, and only for those that need it.
    return import_module("actors.engines.packing")


def _bring_settings(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Take all files but weights and config.json from the source: the libraries write some anew, and leave some out."""
    for file in target.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            file.unlink()
    for pattern in patterns:
        for file in source.glob(pattern):
            name = file.relative_to(source)
            if not (target / name).exists() and not file.name.endswith(".index.json"):
                (target / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target / name)


if __name__ == "__main__":
    main()
