"""What tells the files of a model from any others."""

import re
from pathlib import Path

import numpy as np
import pytest

from actors.catalogue import ModelFilesError
from actors.model_revision import revision_of
from tests.support.model_folders import CHAT, model_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = np.zeros(9 * 2**20, np.uint8)


def test_same_files_in_another_folder_are_the_same_model(tmp_path: Path) -> None:
    first, second = (revision_of(model_folder(tmp_path / name)) for name in ("a", "b"))

    assert first == second
    assert re.fullmatch("sha256:[0-9a-f]{16}", first)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "1_Pooling/config.json"])
def test_another_configuration_or_tokenizer_is_another_model(tmp_path: Path, file: str) -> None:
    folder = model_folder(tmp_path)
    before = revision_of(folder)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text("{}")

    assert revision_of(folder) != before


@pytest.mark.parametrize("size", [1, 1000, 2**16, 2**16 + 1, 2**22])
def test_any_other_byte_of_small_weights_makes_another_model(tmp_path: Path, size: int) -> None:
    folder, weights = tmp_path, tmp_path / "model.npz"
    weights.write_bytes(bytes(size))
    before = revision_of(folder)

    found = set()
    for place in {0, size // 3, size // 2, size - 1}:
        weights.write_bytes(bytes(place) + b"x" + bytes(size - place - 1))
        found.add(revision_of(folder))

    assert before not in found


@pytest.mark.parametrize("change", ["name", "size", "first", "last"])
def test_large_weights_are_told_apart_by_header_size_and_samples(tmp_path: Path, change: str) -> None:
    before = revision_of(model_folder(tmp_path, CHAT, weight=LARGE))
    other = LARGE.copy()
    other[0 if change == "first" else -1] = change in {"first", "last"}
    other = other[1:] if change == "size" else other

    model_folder(tmp_path, CHAT, **{"other" if change == "name" else "weight": other})

    assert revision_of(tmp_path) != before


def test_snapshot_of_the_hub_is_told_by_its_commit(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "models--a--b" / "snapshots" / COMMIT)

    assert revision_of(folder) == COMMIT


def test_adapter_makes_another_model(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    adapters = [model_folder(tmp_path / name, {"rank": rank}) for rank, name in enumerate(("a", "b"))]

    assert len({revision_of(folder, adapter) for adapter in (None, *adapters)}) == 3


def test_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="no-model"):
        revision_of(tmp_path / "no-model")


def test_damaged_weights_are_told_too(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 3)

    assert revision_of(tmp_path).startswith("sha256:")
