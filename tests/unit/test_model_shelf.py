import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from actors.catalogue import ModelFilesError, conversion
from actors.model_shelf import available, local_folder
from bus.messages.catalogue import ModelEntry
from tests.support.model_folders import model_folder

SHELF = """
import sys
from pathlib import Path
import msgspec
from actors.model_shelf import available, local_folder
from bus.messages.catalogue import ModelEntry
found = [(name, str(folder)) for name, folder in available((Path(sys.argv[1]),))]
here = [str(local_folder(ModelEntry(id=name, kind="chat"))) for name in sys.argv[2:]]
print(msgspec.json.encode([found, here]).decode())
"""


def snapshot(cache: Path, repository: str, commit: str = "0" * 40) -> Path:
    """Put a model into the cache of the hub, as its client lays it out, and return its folder."""
    place = cache / "hub" / repository
    folder = place / "snapshots" / commit
    model_folder(place / "blobs")
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(f"../../blobs/{name}")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    return folder


def test_models_lie_in_folders_and_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    folders, cache = tmp_path / "models", tmp_path / "cache"
    toy, big = model_folder(folders / "toy"), model_folder(folders / "org" / "big")
    twice = model_folder(folders / "org" / "twice")
    model_folder(toy / "part")
    (model_folder(folders / "broken") / "model.safetensors").write_bytes(b"x")
    (folders / "empty").mkdir()
    cached = snapshot(cache, "models--org--cached")
    snapshot(cache, "models--org--twice")
    snapshot(cache, "datasets--org--texts")
    (snapshot(cache, "models--org--half") / "model.safetensors").unlink()
    shelf = subprocess.run(
        [sys.executable, "-c", SHELF, folders, "org/cached", "org/absent"],
        env=os.environ | {"HF_HOME": str(cache)},
        capture_output=True,
        check=True,
    )

    found, here = json.loads(shelf.stdout.splitlines()[-1])
    assert found == [
        ["org/big", str(big)],
        ["org/twice", str(twice)],
        ["toy", str(toy)],
        ["org/cached", str(cached)],
    ]
    assert here == [str(cached), "None"]


def test_what_cannot_be_loaded_is_left_out_and_the_log_says_why(tmp_path: Path) -> None:
    (model_folder(tmp_path / "coded") / "evil.py").touch()
    (model_folder(tmp_path / "damaged") / "model.safetensors").write_bytes(b"x")
    model_folder(tmp_path / "for nothing", {"vocab_size": 7})
    model_folder(tmp_path / "other", {"vocab_size": 7})
    model_folder(tmp_path / "good")

    with capture_logs() as logs:
        found = available((tmp_path, tmp_path / "absent"))

    assert [name for name, folder in found if folder.parent == tmp_path] == ["good"]
    whys = {line["model"]: line["error"] for line in logs if line["event"] == "model.left_out"}
    for model, why in (("coded", "evil.py"), ("damaged", "damaged"), ("for nothing", "organisation"), ("other", "for")):
        assert why in whys[model]


def test_local_folder_is_what_an_engine_would_load(tmp_path: Path) -> None:
    toy = local_folder(ModelEntry(id="toy", kind="chat", path="embedded:fusion-toy"))
    here = local_folder(ModelEntry(id="m", kind="chat", path=str(tmp_path)))

    assert toy is not None
    assert (toy / "config.json").is_file()
    assert here == tmp_path
    with pytest.raises(ModelFilesError, match="There is no folder"):
        local_folder(ModelEntry(id="m", kind="chat", path=str(tmp_path / "absent")))


def test_layout_that_has_to_be_converted_is_here_when_it_has_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "mlx-rag"
    folder.mkdir()
    (folder / "model.npz").touch()
    (folder / "config.json").write_text('{"dim": 64}')
    entry = ModelEntry(id="m", kind="embeddings", path=str(folder))

    assert local_folder(entry) is None
    converted = conversion(folder)
    assert converted is not None
    converted.mkdir(parents=True)
    assert local_folder(entry) == converted
