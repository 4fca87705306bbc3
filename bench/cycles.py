"""Heavy models loaded and unloaded over and over: `python -m bench.cycles [FOLDER ...]`.

What Fusion takes is read while nothing is loaded: after each model was loaded twice, and after all cycles.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from aiohttp import ClientSession, ClientTimeout
from msgspec import Struct

from bench.processes import answering, environment, started
from bus.process import run_until_stopped
from bus.server import free_port

_PATIENCE = 120.0
_TOY = Path(__file__).parents[1] / "models" / "fusion-toy"


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.cycles", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[_TOY], help="of the models; unsaid, the toy twice")
    parser.add_argument("--cycles", type=int, default=50, help="each loads and unloads one model")
    args = parser.parse_args()
    run_until_stopped(lambda: _report(args.folders, args.cycles))


async def _report(folders: list[Path], cycles: int) -> None:
    port, monitor_port = free_port(), free_port()
    models = [f"model-{number}" for number in range(max(2, len(folders)))]
    entries = [
        {"id": model, "path": str(folders[number % len(folders)].resolve()), "kind": "chat", "tier": 2}
        for number, model in enumerate(models)
    ]
    config = {"nats": {"port": free_port(), "monitor_port": monitor_port}, "models": entries}
    with tempfile.TemporaryDirectory(prefix="fusion-bench-") as name:
        folder = Path(name)
        file = folder / "fusion.yaml"
        file.write_text(json.dumps(config), encoding="utf-8")
        argv = [sys.executable, "-m", "cli", "up", "--config", str(file)]
        argv += ["--state-dir", str(folder / "state"), "--port", str(port)]
        async with started(argv, folder / "fusion.log", environment()):
            await answering(f"http://127.0.0.1:{port}/readyz")
            async with ClientSession(f"http://127.0.0.1:{port}", timeout=ClientTimeout(total=_PATIENCE)) as http:
                for count in (2 * len(models), cycles):
                    await cycle(http, models, count)
                    print(f"after {count} more cycles:", await rested(file, monitor_port), flush=True)


class Footprint(Struct, frozen=True, kw_only=True):
    """What a Fusion takes: its processes and their resident memory without nats-server's, and what that keeps.

    `consumers` are those of the queue of jobs.
    """

    processes: int
    rss_mb: float
    connections: int
    subscriptions: int
    consumers: int


async def rested(config: Path, monitor_port: int, *, own: int = 0) -> Footprint:
    """Return what the Fusion with this configuration file takes once no process comes or goes any more.

    Its processes all name the file, orphans too. Each has a connection to NATS, and whoever measures has `own`; slots
    without a model are of one size when they have imported what they need.
    """
    while True:
        ours = [each for each in psutil.process_iter(["cmdline"]) if str(config) in (each.info["cmdline"] or ())]
        with suppress(psutil.NoSuchProcess):
            sizes = {each: each.memory_info().rss for each in ours}
            slots = [size for each, size in sizes.items() if "slot" in each.info["cmdline"]]
            there = await kept(monitor_port)
            if there["connections"] == len(ours) + own and min(slots) > 0.9 * max(slots):
                return Footprint(processes=len(ours), rss_mb=round(sum(sizes.values()) / 1e6, 1), **there)
        await asyncio.sleep(0.1)


async def kept(monitor_port: int) -> dict[str, int]:
    """Return what nats-server keeps of a Fusion."""
    told: dict[str, Any] = {}
    async with ClientSession(f"http://127.0.0.1:{monitor_port}") as http:
        for path in ("/varz", "/jsz?streams=true"):
            async with http.get(path) as response:
                told |= await response.json()
    streams = {stream["name"]: stream for stream in told["account_details"][0]["stream_detail"]}
    return {
        "connections": told["connections"],
        "subscriptions": told["subscriptions"],
        "consumers": streams["JOBS"]["state"]["consumer_count"],
    }


async def cycle(http: ClientSession, models: list[str], count: int) -> None:
    """Load and unload the models in turn, `count` times in all. Raises `ClientResponseError` if that is refused."""
    for number in range(count):
        model = models[number % len(models)]
        for order in ("load", "unload"):
            async with http.post(f"/v1/models/{model}/{order}", raise_for_status=True) as response:
                await response.read()


if __name__ == "__main__":
    main()
