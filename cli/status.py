"""`fusion status`: what runs, and how busy it is."""

import argparse
import asyncio

from bus.client import Bus
from bus.messages.presence import Heartbeat
from bus.streams import api
from cli.connect import add_place_options, connected, heard


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("status", help="show what runs, and how busy it is")
    add_place_options(parser)
    parser.set_defaults(run=lambda args: asyncio.run(_status(args)))


async def _status(args: argparse.Namespace) -> int:
    async with connected(args) as bus:
        instances = await heard(bus)
        print(f"NATS {bus.config.url}")
        print(await _streams(bus))
        for beat in sorted(instances, key=lambda beat: (beat.role, beat.instance)):
            print(_line(beat))
        return 0 if instances else 1


async def _streams(bus: Bus) -> str:
    counts = []
    for name in ("EVENTS", "JOBS", "RAG"):
        answer = await api(bus.nc, f"STREAM.INFO.{name}")
        state = answer.get("state", {})
        counts.append(f"{name} {state.get('messages', '?')} messages")
    return ", ".join(counts)


def _line(beat: Heartbeat) -> str:
    words = [f"{beat.instance:<36}", f"{beat.state:<8}", f"pid {beat.pid:<7}", f"{beat.rss_bytes / 2**20:5.0f} MB"]
    if beat.model:
        load = beat.load
        words += [f"running {load.running}/{load.concurrency}", f"queued {load.queued}/{load.max_queue}"]
        words += [beat.model]
    if "url" in beat.detail:
        words.append(beat.detail["url"])
    return "  ".join(words)
