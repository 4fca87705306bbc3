"""`fusion ps`: which models are loaded now, and how busy they are."""

import argparse
import asyncio
from datetime import UTC, datetime

from bus.messages.models import ListModels, ModelCard
from bus.messages.presence import Heartbeat
from bus.subjects import LIST_MODELS
from cli.connect import Subparsers, add_place_options, connected, heard
from cli.table import size, table

_HEAD = ("MODEL", "STATE", "MEMORY", "RUNNING", "WAITING", "LEASES", "UNTIL", "SLOT", "INSTANCE")


def add(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser("ps", help="show which models are loaded, and how busy they are")
    add_place_options(parser)
    parser.set_defaults(run=lambda args: asyncio.run(_ps(args)))


async def _ps(args: argparse.Namespace) -> int:
    async with connected(args) as bus:
        beats = await heard(bus)
        reply = await bus.ask(LIST_MODELS(), ListModels())
    cards = [card for card in reply.models if card.state != "unloaded"]
    print(table([_HEAD, *(row for card in cards for row in _rows(card, beats))]))
    return 0


def _rows(card: ModelCard, beats: tuple[Heartbeat, ...]) -> list[tuple[str, ...]]:
    """Return a row for each instance of the model, or one without: it waits for a slot, or is restarting."""
    own = sorted((beat for beat in beats if beat.model == card.id), key=lambda beat: beat.instance)
    if not own:
        return [(card.id, card.state, "–", "–", "–", str(card.leases), "–", "–", "–")]
    return [_row(card, beat) for beat in own]


def _row(card: ModelCard, beat: Heartbeat) -> tuple[str, ...]:
    load = beat.load
    return (
        card.id,
        card.state,
        size(max(beat.rss_bytes, beat.mlx_bytes) or None),
        f"{load.running}/{load.concurrency}",
        f"{load.queued}/{load.max_queue}",
        str(card.leases),
        _until(card),
        "–" if beat.slot is None else str(beat.slot),
        beat.instance,
    )


def _until(card: ModelCard) -> str:
    if card.expires_at is None:
        return "–"
    return datetime.fromtimestamp(card.expires_at, UTC).astimezone().strftime("%H:%M:%S")
