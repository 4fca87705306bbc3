"""`fusion history`: what the history adds up to, in ready-made views, in SQL, and as Parquet files."""

import argparse
import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from bus.blobs import Blobs
from bus.client import Bus
from bus.errors import LostError
from bus.messages.history import ExportHistory, HistoryStats, HistoryTable, ListViews, QueryHistory
from bus.subjects import EXPORT_HISTORY, HISTORY_STATS, LIST_VIEWS, QUERY_HISTORY
from cli.connect import Subparsers, add_place_options, bus_config, connected, moment
from cli.table import size, table

_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
_PATIENCE = 40.0
_EXPORT_PATIENCE = 75.0

_WORDS = "a view; `sql` and a SELECT; or `export`, a table or view and a file. Without any the views are listed."


def add(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("history", help="show throughput, waiting times, failures and usage; ask in SQL")
    add_place_options(parser)
    parser.add_argument("words", nargs="*", metavar="what", help=_WORDS)
    parser.add_argument(
        "--since", type=_since, metavar="WHEN", help="only hours or days since then: 90m, 24h, 7d, or a date"
    )
    parser.add_argument("--model", help="only this model")
    parser.add_argument("--key", help="only this API key, by its fingerprint")
    parser.add_argument("--limit", type=int, default=1000, help="how many rows at the most")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lambda args: asyncio.run(_run(args, parser)))


async def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    async with connected(args) as bus:
        match args.words:
            case []:
                await _list(bus, args)
            case ["sql", sql]:
                asked = QueryHistory(sql=sql, limit=args.limit)
                _print(await bus.ask(QUERY_HISTORY(), asked, patience=_PATIENCE), args)
            case ["export", name, file]:
                await _export(bus, args, name, Path(file))
            case [view] if view not in {"sql", "export"}:
                stats = HistoryStats(view=view, since=args.since, model=args.model, key=args.key, limit=args.limit)
                _print(await bus.ask(HISTORY_STATS(), stats, patience=_PATIENCE), args)
            case _:
                parser.error(f"give {_WORDS}")
    return 0


async def _list(bus: Bus, args: argparse.Namespace) -> None:
    reply = await bus.ask(LIST_VIEWS(), ListViews())
    if args.json:
        _print_json(reply)
        return
    print(table([("VIEW", "ABOUT"), *((view.name, view.about) for view in reply.views)]))
    print(f"Tables, for sql and export: {', '.join(reply.tables)}")


async def _export(bus: Bus, args: argparse.Namespace, name: str, file: Path) -> None:
    exported = await bus.ask(EXPORT_HISTORY(), ExportHistory(table=name), patience=_EXPORT_PATIENCE)
    content = await Blobs(bus_config(args).blobs).get(exported.blob)
    if content is None:
        raise LostError("unavailable", f"The blob {exported.blob} is not on this machine.")
    try:
        await asyncio.to_thread(file.write_bytes, content)
    except OSError as error:
        sys.exit(f"fusion: {file} cannot be written: {error.strerror}")
    print(f"{file}: {name} as of event {exported.as_of}, {size(exported.size_bytes)}")


def _print(found: HistoryTable, args: argparse.Namespace) -> None:
    if args.json:
        _print_json(found)
        return
    print(table([tuple(found.columns), *(tuple(map(_shown, row)) for row in found.rows)]))
    if found.truncated:
        print(f"There are more than these {len(found.rows)} rows.", file=sys.stderr)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _since(text: str) -> datetime:
    """Return the moment that `text` means: so long ago, or a date. Raises `ArgumentTypeError`."""
    ago = re.fullmatch(r"(\d+)([mhd])", text)
    if not ago:
        return moment(text)
    try:
        return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
    except OverflowError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is longer ago than there are dates") from error
