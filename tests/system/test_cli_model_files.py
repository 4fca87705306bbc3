"""`fusion models pull`, `convert` and `rm`, as a user runs them, with a hub on this machine."""

import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from actors.conversion import made_once, weights_bytes
from tests.support import tiny_models
from tests.support.cli import fusion, home, on_terminal, started
from tests.support.hub import TINY, Hub, hub_running
from tests.support.nats import until

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
# Larger than the pieces of 10 MiB in which it is fetched.
LARGE = bytes(24_000_000)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncGenerator[Hub]:
    model = tiny_models.llama(tmp_path / "model")
    files = {name: (model / name).read_bytes() for name in MODEL_FILES}
    async with hub_running(files | {"modeling.py": b"code", "pytorch_model.bin": b"pickled"}) as hub:
        yield hub


@pytest.fixture
def at_home(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """The variables of a user who has fetched nothing yet."""
    return home(tmp_path / "home") | {"HF_ENDPOINT": hub.url}


async def test_pull_fetches_weights_and_settings_once_and_no_code(hub: Hub, at_home: dict[str, str]) -> None:
    first = await fusion("models", "pull", TINY, environment=at_home)
    asked = sorted(path for path, _ in hub.asked)
    again = await fusion("models", "pull", TINY, environment=at_home)

    assert (first.status, again.status) == (0, 0)
    assert first.out == again.out
    folder = Path(first.out.strip())
    assert sorted(path.name for path in folder.iterdir()) == sorted(MODEL_FILES)
    assert all((folder / name).read_bytes() == hub.files[name] for name in MODEL_FILES)
    assert asked == sorted(MODEL_FILES)
    assert len(hub.asked) == len(MODEL_FILES)
    assert re.fullmatch(r"4 files, 452 kB, after \d+\.\d s\n", first.err)


async def test_pull_goes_on_where_the_connection_broke(hub: Hub, at_home: dict[str, str]) -> None:
    hub.files["large.safetensors"] = LARGE
    hub.slow, hub.breaks = "large.safetensors", 1

    pulled = await fusion("models", "pull", TINY, environment=at_home)

    assert pulled.status == 0
    assert [range_ for path, range_ in hub.asked if path == hub.slow] == [None, f"bytes={10 * 2**20}-"]
    assert (Path(pulled.out.strip()) / hub.slow).read_bytes() == LARGE


async def test_pull_after_a_kill_fetches_only_the_files_that_are_missing(hub: Hub, at_home: dict[str, str]) -> None:
    hub.slow = "model.safetensors"
    hub.go_on.clear()
    blobs = Path(at_home["HF_HOME"]) / "hub" / "models--someone--tiny" / "snapshots"
    async with started("models", "pull", TINY, environment=at_home):
        await until(lambda: len(list(blobs.glob("*/*"))) == len(MODEL_FILES) - 1)
    hub.go_on.set()
    hub.asked.clear()

    pulled = await fusion("models", "pull", TINY, environment=at_home)

    assert pulled.status == 0
    assert [path for path, _ in hub.asked] == ["model.safetensors"]


async def test_pull_shows_bars_on_a_terminal(at_home: dict[str, str]) -> None:
    sent = await on_terminal("models", "pull", TINY, environment=at_home)

    assert "Fetching 4 files: 100%" in sent
    assert sent.splitlines()[-1].startswith("4 files, 452 kB")


@pytest.mark.parametrize(
    ("repository", "told"),
    [
        ("someone/else", "Repository Not Found"),
        ("not a name", "Repo id must use alphanumeric chars"),
    ],
)
async def test_pull_of_what_the_hub_does_not_have_says_so(at_home: dict[str, str], repository: str, told: str) -> None:
    pulled = await fusion("models", "pull", repository, environment=at_home)

    assert (pulled.status, pulled.out) == (1, "")
    assert pulled.err.startswith(f"fusion: {repository} cannot be fetched from the hub: ")
    assert told in pulled.err
    assert pulled.err.count("\n") == 1


async def test_pull_of_what_no_engine_reads_says_so(hub: Hub, at_home: dict[str, str]) -> None:
    hub.files = {"model.gguf": b"weights", "README.md": b"words"}

    pulled = await fusion("models", "pull", TINY, environment=at_home)

    assert (pulled.status, pulled.out) == (1, "")
    assert f"fusion: {TINY} cannot be fetched from the hub: it has no files that Fusion reads" in pulled.err
    assert hub.asked == []


async def test_pull_without_network_says_so(tmp_path: Path) -> None:
    nobody = home(tmp_path) | {"HF_ENDPOINT": "http://127.0.0.1:9"}

    pulled = await fusion("models", "pull", TINY, environment=nobody)

    assert pulled.status == 1
    assert pulled.err.startswith(f"fusion: {TINY} cannot be fetched from the hub: Got: ConnectError")
    assert pulled.err.count("\n") == 1


async def test_convert_prints_the_folder_of_the_same_conversion_each_time(tmp_path: Path) -> None:
    model = tiny_models.llama(tmp_path / "tiny")
    words = ("models", "convert", str(model), "--quantisation", "4bit")

    first = await fusion(*words, environment=home(tmp_path))
    again = await fusion(*words, environment=home(tmp_path))

    assert (first.status, first.err, first.out) == (0, "", again.out)
    made = Path(first.out.strip())
    assert made.parent == tmp_path / ".cache" / "fusion" / "models"
    assert made.name.startswith("tiny-4bit-")
    assert 0 < weights_bytes(made) < weights_bytes(model) / 2


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (None, "has no config.json, so it is no folder of a model"),
        ('{"model_type": "whisper"}', "cannot be quantised: it is for transcription"),
    ],
)
async def test_convert_tells_what_cannot_be_converted(tmp_path: Path, config: str | None, told: str) -> None:
    if config:
        (tmp_path / "config.json").write_text(config)
        tiny_models.llama(tmp_path / "tiny").joinpath("model.safetensors").rename(tmp_path / "model.safetensors")

    converted = await fusion("models", "convert", str(tmp_path), "--quantisation", "8bit", environment=home(tmp_path))

    assert (converted.status, converted.out) == (1, "")
    assert converted.err.startswith("fusion: ")
    assert told in converted.err


async def test_rm_deletes_a_repository_and_its_conversions_once_that_is_agreed_to(
    at_home: dict[str, str], tmp_path: Path
) -> None:
    snapshot = Path((await fusion("models", "pull", TINY, environment=at_home)).out.strip())
    cache = Path(at_home["HOME"]) / ".cache" / "fusion" / "models"
    made = made_once(snapshot, cache / "made", Path.mkdir)
    kept = made_once(tmp_path / "model", cache / "kept", Path.mkdir)
    removal = ("models", "rm", TINY, "--files", "--state-dir", str(tmp_path / "nowhere"))

    refused = await fusion(*removal, environment=at_home, typed="n\n")
    unasked = await fusion(*removal, environment=at_home)
    assert (refused.status, unasked.status) == (1, 1)
    assert refused.err == "Nothing was removed.\n"
    assert str(made) in refused.out
    assert snapshot.is_dir()
    assert made.is_dir()

    agreed = await fusion(*removal, environment=at_home, typed="y\n")
    again = await fusion(*removal, "--yes", environment=at_home)
    assert agreed.status == 0
    assert not snapshot.parent.parent.exists()
    assert not made.exists()
    assert kept.is_dir()
    assert (tmp_path / "model" / "config.json").is_file()
    assert (again.status, again.err) == (1, f"fusion: There is no {TINY} in the catalogue and in the caches.\n")
