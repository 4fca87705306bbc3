"""`fusion models pull` and `convert`: the files of models on this machine."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import get_args

import msgspec

from actors import hub_cache
from actors.catalogue import ModelFilesError, local_path, model_folder
from actors.configuration import configuration
from actors.model_facts import discover
from bus.messages.catalogue import ModelEntry
from bus.messages.models import Quantisation
from bus.process import configure_logs
from cli.connect import Subparsers
from cli.table import content, size

_BITS = tuple(word for word in get_args(Quantisation) if word.endswith("bit"))


def add(what: Subparsers) -> None:
    """Add the actions."""
    pulling = what.add_parser("pull", help="fetch a model from the hub; what is here already is not fetched again")
    pulling.add_argument("repository", help="such as mlx-community/Phi-3-mini-4k-instruct-4bit")
    pulling.set_defaults(run=_pull)
    converting = what.add_parser("convert", help="quantise a model and print the folder; it is kept for the next time")
    converting.add_argument("model", help="a model of the catalogue, a folder or a hub repository")
    converting.add_argument("--quantisation", choices=_BITS, required=True, help="how many bits a weight")
    converting.add_argument("--config", type=Path, help="the configuration file with the catalogue")
    converting.set_defaults(run=_convert)


def _pull(args: argparse.Namespace) -> int:
    begun = time.monotonic()
    folder = _fetched(args.repository)
    count, total = content(folder)
    print(f"{count} files, {size(total)}, after {time.monotonic() - begun:.1f} s", file=sys.stderr)
    print(folder)
    return 0


def _convert(args: argparse.Namespace) -> int:
    configure_logs("cli", level=os.environ.get("LOG_LEVEL") or "warning")
    models = configuration(args.config, os.environ).models
    entry = next((entry for entry in models if entry.id == args.model), None)
    if entry is None:
        folder = local_path(args.model) or _fetched(args.model)
        entry = ModelEntry(id=args.model, path=str(folder), kind=discover(folder).kind)
    print(model_folder(msgspec.structs.replace(entry, quantisation=args.quantisation)))
    return 0


def _fetched(repository: str) -> Path:
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415 - as in hub_cache

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return hub_cache.fetched(repository)
    except hub_cache.HubError as error:
        raise ModelFilesError(f"{repository} cannot be fetched from the hub: {error}") from error
