"""`fusion doctor`: what this machine has, and what is missing."""

import argparse
import asyncio
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil

from actors.rag import absent
from bus.errors import BusError
from bus.server import OLDEST, ServerError, binary, server_version
from cli.connect import add_place_options, bus_config, connected, heard
from cli.state import NotRunningError, read_running

_PACKAGES = ("mlx", "mlx-lm", "mlx-embeddings", "nats-py", "aiohttp", "duckdb", "hnswlib", "msgspec", "openai")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="show versions, ports, memory, Metal or CPU, and what is missing")
    add_place_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is found; 1 when Fusion cannot run here."""
    problems: list[str] = []
    print(f"fusion    {_version('mlx-fusion')}, Python {platform.python_version()}, {platform.platform()}")
    print("packages  " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    print(f"memory    {psutil.virtual_memory().total / 2**30:.1f} GiB, {psutil.virtual_memory().percent:.0f} % used")
    _nats(problems)
    _device(problems)
    _state(args)
    if find_spec("mlx_embeddings") is None:
        problems.append("embeddings are not installed: pip install 'mlx-fusion[embeddings]'")
    if not absent.is_installed():
        problems.append("RAG is not installed: pip install 'mlx-fusion[rag]'")
    elif find_spec("hnswlib") is None:
        problems.append(
            "hnswlib: without it vectors are compared one by one (everything works, large collections slower)"
        )
    for problem in problems:
        print(f"missing   {problem}")
    return 1 if any(problem.startswith("!") for problem in problems) else 0


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _nats(problems: list[str]) -> None:
    try:
        path = binary()
        print(f"nats      {path} {'.'.join(map(str, server_version(path)))}")
    except ServerError as error:
        problems.append(f"! {error} (at least {'.'.join(map(str, OLDEST))})")


def _device(problems: list[str]) -> None:
    """Look in a process of its own: only those touch mlx that serve a model."""
    done = subprocess.run(
        [sys.executable, "-m", "actors.engines.device"], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        problems.append(f"! mlx does not work: {(done.stderr.strip().splitlines() or ['no word of it'])[-1]}")
        return
    device = json.loads(done.stdout)
    print(f"device    {device['device']}, BLAS {device['blas']}, {device['gflops']:.0f} GFLOP/s in float32")
    if device["blas"].startswith("netlib"):
        problems.append("a fast BLAS: `apt-get install libopenblas0-pthread` makes models 10 to 30 times faster")
    if sys.platform == "linux" and shutil.which("g++") is None:
        problems.append("g++: without it mlx does not fuse kernels (everything works, some of it slower)")


async def _models(args: argparse.Namespace) -> None:
    """Tell in what each loaded model computes, as its own process says."""
    try:
        async with connected(args) as bus:
            beats = await heard(bus)
    except BusError as error:
        print(f"models    unknown: {error}")
        return
    for beat in beats:
        if beat.model is not None and "dtype" in beat.detail:
            print(f"model     {beat.model}: {beat.state}, {beat.detail['dtype']}, BLAS {beat.detail['blas']}")


def _state(args: argparse.Namespace) -> None:
    try:
        config = bus_config(args)
        print(f"state     {config.state}, NATS {config.url}")
        running = read_running(config.state)
        print(f"running   pid {running.pid}, {running.http_url}")
        asyncio.run(_models(args))
    except NotRunningError as error:
        print(f"running   no: {error}")
    free = shutil.disk_usage(Path.home()).free
    print(f"disk      {free / 2**30:.1f} GiB free in {Path.home()}")
