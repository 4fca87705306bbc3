import json
import os
from pathlib import Path

import pytest

from actors.catalogue import ModelFilesError
from actors.model_files import check_files, folder_below
from bus.errors import RefusedError
from tests.support.model_folders import crafted, model_folder, tensor

INDEX = "model.safetensors.index.json"


def write_index(folder: Path, *names: str) -> None:
    weights = {str(number): name for number, name in enumerate(names)}
    (folder / INDEX).write_text(json.dumps({"weight_map": weights}))


def test_ordinary_folder_passes(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    write_index(folder, "model.safetensors", "model.safetensors")
    (folder / "again.safetensors").symlink_to("model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle, which nobody reads")
    (folder / "data_config.json").write_text("[]")
    (folder / ".git").mkdir()
    (folder / ".git" / "hook.py").touch()

    check_files(folder)


@pytest.mark.parametrize("name", ["modeling.py", "1_Pooling/pooling.py"])
def test_python_file_is_refused_unless_it_is_trusted(tmp_path: Path, name: str) -> None:
    file = model_folder(tmp_path / "m") / name
    file.parent.mkdir(exist_ok=True)
    file.touch()

    with pytest.raises(ModelFilesError, match=rf"The model m comes with code of its own \({file.name}\).*trust_code"):
        check_files(tmp_path / "m")
    check_files(tmp_path / "m", trust_code=True)


@pytest.mark.parametrize("name", ["config", "tokenizer_config", "processor_config", "preprocessor_config"])
@pytest.mark.parametrize("key", ["auto_map", "model_file"])
def test_configuration_that_names_code_is_refused_unless_it_is_trusted(tmp_path: Path, name: str, key: str) -> None:
    (model_folder(tmp_path / "m") / f"{name}.json").write_text(json.dumps({key: "x"}))

    with pytest.raises(ModelFilesError, match=rf"{key} in {name}\.json"):
        check_files(tmp_path / "m")
    check_files(tmp_path / "m", trust_code=True)


@pytest.mark.parametrize("trust_code", [False, True])
def test_damaged_weights_are_refused_wherever_they_lie(tmp_path: Path, trust_code: bool) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "vae").mkdir()
    crafted(folder / "vae" / "weights.safetensors", {"a": tensor(0, 8, 2)}, bytes(7))

    with pytest.raises(ModelFilesError, match=r"vae/weights\.safetensors is damaged"):
        check_files(folder, trust_code=trust_code)


@pytest.mark.parametrize(
    "name", ["model-2.safetensors", "../other.safetensors", "/etc/passwd", "a\\b", "..", "a/b", "\0"]
)
def test_index_names_only_files_beside_it(tmp_path: Path, name: str) -> None:
    folder = model_folder(tmp_path / "m")
    model_folder(tmp_path / "other").joinpath("model.safetensors").rename(tmp_path / "other.safetensors")
    write_index(folder, "model.safetensors", name)

    with pytest.raises(ModelFilesError, match=INDEX):
        check_files(folder)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_index_without_a_map_is_refused(tmp_path: Path, content: str) -> None:
    (model_folder(tmp_path / "m") / INDEX).write_text(content)

    with pytest.raises(ModelFilesError, match="has no weight_map"):
        check_files(tmp_path / "m")


@pytest.mark.parametrize("content", [b"[1]", b"{", b"[" * 10**5, b"\xff", b""])
@pytest.mark.parametrize("name", [INDEX, "config.json", "tokenizer_config.json"])
def test_what_is_no_json_object_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (model_folder(tmp_path / "m") / name).write_bytes(content)

    with pytest.raises(ModelFilesError, match=f"m/{name}"):
        check_files(tmp_path / "m")


def test_configuration_may_have_what_only_python_calls_json(tmp_path: Path) -> None:
    (model_folder(tmp_path / "m") / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')

    check_files(tmp_path / "m")


def test_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    secret = tmp_path / "secret.json"
    secret.write_text("{}")

    for link, target in (("a", secret), ("b", Path("../secret.json")), ("c", tmp_path), ("d", Path("/dev/zero"))):
        (folder / link).symlink_to(target)
        with pytest.raises(ModelFilesError, match=f"m/{link} leads out of the folder"):
            check_files(folder)
        (folder / link).unlink()


def test_link_to_nothing_and_pipe_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    for target in ("absent", "link"):
        (folder / "link").symlink_to(target)
        with pytest.raises(ModelFilesError, match="m/link leads to no file"):
            check_files(folder)
        (folder / "link").unlink()

    os.mkfifo(folder / "generation_config.json")

    with pytest.raises(ModelFilesError, match=r"generation_config\.json is no ordinary file"):
        check_files(folder)


def test_snapshot_of_the_hub_links_to_the_blobs_of_the_cache_only(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--m"
    snapshot = model_folder(repository / "snapshots" / "0123")
    shared, blobs = tmp_path / "hub" / "blobs", repository / "blobs"
    shared.mkdir()
    blobs.mkdir()
    (snapshot / "model.safetensors").rename(shared / "x")
    (blobs / "x").symlink_to("../../blobs/x")
    (snapshot / "model.safetensors").symlink_to("../../blobs/x")

    check_files(snapshot)

    (snapshot / "other.json").symlink_to(tmp_path / "hub")
    with pytest.raises(ModelFilesError, match="leads out"):
        check_files(snapshot)


def test_link_to_blobs_that_lead_elsewhere_is_refused(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--m"
    snapshot = model_folder(repository / "snapshots" / "0123")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.json").write_text("{}")
    (repository / "blobs").symlink_to(tmp_path / "secret")
    (snapshot / "key.json").symlink_to("../../blobs/key.json")

    with pytest.raises(ModelFilesError, match="leads out"):
        check_files(snapshot)


def test_folder_that_is_none_of_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="There is no folder"):
        check_files(tmp_path / "absent")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    shelf = tmp_path / "My Models"
    model_folder(shelf / "toy")
    model_folder(shelf / "org" / "big-4bit.v2")
    model_folder(shelf / ".hidden")
    model_folder(tmp_path / "private")
    (shelf / "escape").symlink_to(tmp_path / "private")
    (shelf / "alias").symlink_to("toy")
    return shelf


@pytest.mark.parametrize("name", ["toy", "org/big-4bit.v2", "alias"])
def test_folder_of_a_model_is_found_by_its_name_or_its_path(shelf: Path, name: str) -> None:
    folders = (shelf.parent / "absent", shelf)

    assert folder_below(name, folders) == (shelf / name).resolve()
    assert folder_below(str(shelf / name), folders) == (shelf / name).resolve()


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            ".",
            "..",
            "../private",
            "toy/..",
            "toy/../../private",
            "org/../toy",
            "./toy",
            "/",
            "//",
            "/etc",
            "~",
            "~/.ssh",
        ),
        *(
            "~root",
            "$HOME",
            "-rf",
            ".hidden",
            ".git",
            "toy ",
            " toy",
            "toy\n",
            "toy\0",
            "\0",
            "toy/",
            "toy//",
            "/toy",
            "C:\\x",
        ),
        *(
            "..\\private",
            "org\\big-4bit.v2",
            "toy%00",
            "%2e%2e/private",
            "file:///etc",
            "org/big-4bit.v2/x",
            "TOY\u200b",
        ),
        *("escape", "absent", "a" * 5000, "\ud800", "ｔｏｙ", "org"[:1] + "/" * 300),
    ],
)
def test_path_that_is_not_below_a_model_folder_is_refused(shelf: Path, path: str) -> None:
    for sent in (path, f"{shelf}/{path}", f"{shelf}/../{path}"):
        with pytest.raises(RefusedError) as refused:
            folder_below(sent, (shelf,))

        assert refused.value.code == "invalid_request"
        assert refused.value.failure.param == "path"


def test_private_folder_is_refused_by_its_full_path(shelf: Path) -> None:
    with pytest.raises(RefusedError):
        folder_below(str(shelf.parent / "private"), (shelf,))


def test_without_model_folders_every_path_is_refused(shelf: Path) -> None:
    with pytest.raises(RefusedError, match="no model folders are configured"):
        folder_below(str(shelf / "toy"), ())
