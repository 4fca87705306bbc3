"""`fusion models`: lists, shows, loads and unloads models; model_files.py and model_removal.py have their files."""

import argparse
import math
import sys
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
from tqdm import tqdm

from bus.client import Bus
from bus.frames import Status
from bus.messages.models import (
    GetModel,
    ListModels,
    LoadModel,
    ModelCard,
    ModelKind,
    ModelPriority,
    ModelProgress,
    UnloadModel,
)
from bus.subjects import GET_MODEL, LIST_MODELS, LOAD_MODEL, UNLOAD_MODEL, Address
from cli import model_files, model_removal
from cli.connect import Subparsers, add_action
from cli.table import size, table

_TIMES = ("created", "expires_at")


def add(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("models", help="list, show, fetch, load, unload, convert and remove models")
    what = parser.add_subparsers(required=True, metavar="what")
    listing = add_action(what, "list", "list the models of the catalogue and how they stand", _list)
    listing.add_argument("--available", action="store_true", help="also what else lies on its machine")
    showing = add_action(what, "show", "show all that is known of one model", _show)
    loading = add_action(what, "load", "load a model and wait until it answers", _load)
    loading.add_argument("--path", help="add it to the catalogue from this hub repository or folder")
    loading.add_argument("--kind", choices=get_args(ModelKind), help="its kind, instead of what its files say")
    loading.add_argument("--context-length", type=int, help="a shorter context than the model has, in tokens")
    loading.add_argument("--priority", choices=get_args(ModelPriority), help="how much it is worth to stay loaded")
    loading.add_argument("--ttl", type=_seconds, help="after how many idle seconds it is unloaded; 0 keeps it")
    unloading = add_action(what, "unload", "unload a heavy model once its requests are answered", _unload)
    for action in (listing, showing):
        action.add_argument("--json", action="store_true", help="print JSON")
    for action in (showing, loading, unloading):
        action.add_argument("model", help="its id or an alias")
    model_files.add(what)
    model_removal.add(what)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


async def _list(bus: Bus, args: argparse.Namespace) -> None:
    reply = await bus.ask(LIST_MODELS(), ListModels(available=args.available))
    if args.json:
        _print_json(reply.models)
        return
    head = ("MODEL", "STATE", "TIER", "KIND", "QUANTISATION", "CONTEXT", "MEMORY")
    print(table([head, *map(_row, reply.models)]))


def _row(card: ModelCard) -> tuple[str, ...]:
    memory = size(card.memory_bytes)
    if card.memory_bytes is None and card.estimated_bytes is not None:
        memory = f"about {size(card.estimated_bytes)}"
    context = "–" if card.context_length is None else str(card.context_length)
    return (card.id, card.state, str(card.tier), card.kind, card.quantisation or "–", context, memory)


async def _show(bus: Bus, args: argparse.Namespace) -> None:
    card = await bus.ask(GET_MODEL(), GetModel(model=args.model))
    if args.json:
        _print_json(card)
        return
    print(table((_title(name), _shown(name, getattr(card, name))) for name in card.__struct_fields__))


def _title(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _shown(name: str, value: Any) -> str:
    if value is None or value in ("", ()):
        return "–"
    if name.endswith("_bytes"):
        return f"{size(value)} ({value})"
    if name in _TIMES:
        return datetime.fromtimestamp(value, UTC).astimezone().isoformat(" ", "seconds")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


async def _load(bus: Bus, args: argparse.Namespace) -> None:
    request = LoadModel(
        model=args.model,
        path=args.path,
        kind=args.kind,
        context_length=args.context_length,
        priority=args.priority,
        ttl=args.ttl,
    )
    last = await _followed(bus, LOAD_MODEL(), request)
    memory = size(last.card.memory_bytes if last.card else None)
    print(f"{last.model} is loaded after {last.seconds:.1f} s; memory {memory}")


async def _unload(bus: Bus, args: argparse.Namespace) -> None:
    last = await _followed(bus, UNLOAD_MODEL(), UnloadModel(model=args.model))
    print(f"{last.model} is unloaded after {last.seconds:.1f} s; {size(last.freed_bytes)} are free again")


async def _followed(bus: Bus, address: Address[Any, ModelProgress], request: Any) -> ModelProgress:
    """Return the last piece of the answer, after showing those before: in one line on a terminal, else news by news."""
    piece = ModelProgress(model=request.model, state="waiting")
    said = ""
    with tqdm(bar_format="{desc}", leave=False, disable=None) as line:
        async with bus.stream(address, request) as answer:
            async for item in answer:
                if isinstance(item, Status):
                    continue
                piece = item
                news = ": ".join(filter(None, (piece.state, piece.why)))
                line.set_description_str(f"{piece.model} {news} ({piece.seconds:.0f} s)")
                if line.disable and not piece.done and news != said:
                    print(f"{piece.model} {news}", file=sys.stderr)
                said = news
    return piece


def _print_json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
