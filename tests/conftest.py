"""What all tests stand on."""

import os
import sys

import pytest

# Tests start Python by the hundred. Where its compiled modules are not to be kept, that takes twice the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session", autouse=True)
def own_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have mlx compile its kernels into a folder that no other process of pytest uses: it may load half a file."""
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("kernels"))
