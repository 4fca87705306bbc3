"""What all tests stand on."""

import os
import sys
from collections import defaultdict
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings

# Tests start Python by the hundred. Where its compiled modules are not to be kept, that takes twice the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def own_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have mlx compile its kernels into a folder that no other process of pytest uses: it may load half a file."""
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("kernels"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the files, take them from each folder in turn: some fill the cores, others wait."""
    if not hasattr(config, "workerinput"):
        return
    numbers: defaultdict[Path, count[int]] = defaultdict(count)
    turns = {path: next(numbers[path.parent]) for path in dict.fromkeys(item.path for item in items)}
    items.sort(key=lambda item: turns[item.path])
