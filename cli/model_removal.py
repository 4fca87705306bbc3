"""`fusion models rm`: takes a model out of the catalogue, and its files off the disk.

Deletes in two places only: the hub's cache, and Fusion's cache of conversions.
"""

import argparse
import asyncio
import shutil
import sys
from pathlib import Path

from actors import hub_cache
from actors.conversion import conversions_of
from bus.errors import RefusedError
from bus.messages.models import RemoveModel
from bus.subjects import REMOVE_MODEL
from cli.connect import Subparsers, add_place_options, connected
from cli.state import NotRunningError
from cli.table import content, size


def add(what: Subparsers) -> None:
    """Add the action."""
    parser = what.add_parser("rm", help="take a model that was added by `load` out of the catalogue")
    add_place_options(parser)
    parser.add_argument("model", help="its id; with --files also a hub repository or a folder")
    parser.add_argument("--files", action="store_true", help="also delete it from the hub's cache, and conversions")
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    parser.set_defaults(run=_remove)


def _remove(args: argparse.Namespace) -> int:
    """Delete nothing before that is agreed to, and the catalogue has let go of the model."""
    cached = hub_cache.cached(args.model) if args.files else None
    made = conversions_of(cached[0] if cached else Path(args.model)) if args.files else []
    sizes = {folder: content(folder)[1] for folder in made}
    if cached:
        sizes[cached[0]] = cached[1]
    if sizes and not args.yes and not _is_agreed(sizes):
        print("Nothing was removed.", file=sys.stderr)
        return 1
    has_left = asyncio.run(_take_out(args))
    if cached:
        hub_cache.delete(args.model)
    for folder in made:
        shutil.rmtree(folder)
    if not has_left and not sizes:
        print(f"fusion: There is no {args.model} in the catalogue and in the caches.", file=sys.stderr)
        return 1
    freed = f"; {size(sum(sizes.values()))} were deleted" if sizes else ""
    print(f"{args.model} is removed{freed}")
    return 0


def _is_agreed(sizes: dict[Path, int]) -> bool:
    for folder, count in sizes.items():
        print(f"{folder}  {size(count)}")
    try:
        return input("Delete these? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


async def _take_out(args: argparse.Namespace) -> bool:
    """Take the model out of the catalogue; false if it is not there, which only with files to delete is no error."""
    try:
        async with connected(args) as bus:
            await bus.ask(REMOVE_MODEL(), RemoveModel(model=args.model))
    except NotRunningError:
        if not args.files:
            raise
        return False
    except RefusedError as error:
        if not args.files or error.code != "model_not_found":
            raise
        return False
    return True
