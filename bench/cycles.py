"""Heavy models loaded and unloaded over and over: `python -m bench.cycles [FOLDER ...]`.

What Fusion takes is read while nothing is loaded: after each model was loaded twice, and after all cycles.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from aiohttp import ClientSession, ClientTimeout
from msgspec import Struct

from bench.processes import answering, environment, started
from bus.client import Bus
from bus.config import BusConfig
from bus.process import run_until_stopped
from bus.server import free_port

_PATIENCE = 120.0
_SLOTS = 2
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
    nats_port = free_port()
    nats = {"port": nats_port, "monitor_port": monitor_port}
    config = {"nats": nats, "actors": {"slots": _SLOTS}, "models": entries}
    with tempfile.TemporaryDirectory(prefix="fusion-bench-") as name:
        folder = Path(name)
        file = folder / "fusion.yaml"
        file.write_text(json.dumps(config), encoding="utf-8")
        argv = [sys.executable, "-m", "cli", "up", "--config", str(file)]
        argv += ["--state-dir", str(folder / "state"), "--port", str(port)]
        async with started(argv, folder / "fusion.log", environment()):
            await answering(f"http://127.0.0.1:{port}/readyz")
            async with (
                Bus.connect("bench", BusConfig(url=f"nats://127.0.0.1:{nats_port}")) as bus,
                ClientSession(f"http://127.0.0.1:{port}", timeout=ClientTimeout(total=_PATIENCE)) as http,
            ):
                for count in (2 * len(models), cycles):
                    await cycle(http, models, count)
                    await rested(bus, _SLOTS)
                    print(f"after {count} more cycles:", await footprint(file, monitor_port), flush=True)


class Footprint(Struct, frozen=True, kw_only=True):
    """What a Fusion takes: its processes and their resident memory without nats-server's, and what that keeps.

    `consumers` are those of the queue of jobs.
    """

    processes: int
    rss_mb: float
    connections: int
    subscriptions: int
    consumers: int


async def footprint(config: Path, monitor_port: int) -> Footprint:
    """Return what the Fusion with this configuration file takes now; its processes all name it, orphans too."""
    ours = [process for process in psutil.process_iter(["cmdline"]) if str(config) in (process.info["cmdline"] or ())]
    told: dict[str, Any] = {}
    async with ClientSession(f"http://127.0.0.1:{monitor_port}") as http:
        for path in ("/varz", "/jsz?streams=true"):
            async with http.get(path) as response:
                told |= await response.json()
    streams = {stream["name"]: stream for stream in told["account_details"][0]["stream_detail"]}
    return Footprint(
        processes=len(ours),
        rss_mb=round(sum(process.memory_info().rss for process in ours) / 1e6, 1),
        connections=told["connections"],
        subscriptions=told["subscriptions"],
        consumers=streams["JOBS"]["state"]["consumer_count"],
    )


async def cycle(http: ClientSession, models: list[str], count: int) -> None:
    """Load and unload the models in turn, `count` times in all. Raises `ClientResponseError` if that is refused."""
    for number in range(count):
        model = models[number % len(models)]
        for order in ("load", "unload"):
            async with http.post(f"/v1/models/{model}/{order}", raise_for_status=True) as response:
                await response.read()


async def rested(bus: Bus, slots: int) -> None:
    """Return when all `slots` are empty: a process has taken the place of each that was drained."""
    await bus.presence.until(lambda beats: sum(beat.state == "empty" for beat in beats) == slots)


if __name__ == "__main__":
    main()
