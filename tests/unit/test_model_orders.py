"""Orders to load a model that the catalogue does not have."""

import shutil
from pathlib import Path

import pytest

from actors.model_orders import check_same, entry_for
from bus.errors import RefusedError
from bus.messages.catalogue import ModelEntry
from bus.messages.models import LoadModel

TOY = Path(__file__).parents[2] / "models" / "fusion-toy"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    shutil.copytree(TOY, tmp_path / "models" / "org" / "toy")
    return tmp_path / "models"


def refusal(request: LoadModel, *folders: Path) -> tuple[str, str | None]:
    with pytest.raises(RefusedError) as refused:
        entry_for(request, folders)
    return refused.value.code, refused.value.failure.param


def test_a_folder_below_a_configured_one_is_a_heavy_model_of_its_kind(shelf: Path) -> None:
    order = LoadModel(path="org/toy", context_length=64, priority="low", ttl=5.0)

    entry = entry_for(order, (shelf,))

    assert (entry.id, entry.kind, entry.path, entry.tier) == ("org/toy", "chat", str(shelf / "org" / "toy"), 2)
    assert (entry.context_length, entry.priority, entry.ttl) == (64, "low", 5.0)


def test_it_may_be_named_by_its_whole_path_and_have_another_id(shelf: Path) -> None:
    named = entry_for(LoadModel(path=str(shelf / "org" / "toy"), model="mine"), (shelf,))
    unnamed = entry_for(LoadModel(path=str(shelf / "org" / "toy")), (shelf,))

    assert (named.id, unnamed.id) == ("mine", "toy")


def test_what_is_embedded_needs_no_folder() -> None:
    assert entry_for(LoadModel(path="embedded:fusion-toy"), ()).id == "fusion-toy"


def test_a_repository_that_is_not_here_must_say_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    entry = entry_for(LoadModel(path="org/not-here", kind="embeddings"), ())

    assert (entry.id, entry.path, entry.kind) == ("org/not-here", "org/not-here", "embeddings")
    assert refusal(LoadModel(path="org/not-here")) == ("invalid_request", "kind")


def test_without_a_path_it_is_not_found() -> None:
    assert refusal(LoadModel(model="nobody")) == ("model_not_found", "model")


@pytest.mark.parametrize("path", ["/etc", "../..", "~/.ssh", "org/toy/..", "a/b/c", "org\\toy", " ", "x\0y", "-rf/"])
def test_a_path_that_leads_elsewhere_is_refused(shelf: Path, path: str) -> None:
    assert refusal(LoadModel(path=path, kind="chat"), shelf) == ("invalid_request", "path")


def test_an_id_that_is_none_is_refused(shelf: Path) -> None:
    assert refusal(LoadModel(path="org/toy", model="../x"), shelf) == ("invalid_request", "model")


def test_a_folder_of_the_current_directory_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "toy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert refusal(LoadModel(path="org/toy", kind="chat")) == ("invalid_request", "path")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"path": "embedded:minilm"}, "path"),
        ({"kind": "embeddings"}, "kind"),
        ({"context_length": 5}, "context_length"),
        ({"priority": "high"}, "priority"),
    ],
)
def test_an_order_that_contradicts_the_catalogue_is_a_conflict(fields: dict[str, object], param: str) -> None:
    entry = ModelEntry(id="toy", kind="chat", path="embedded:fusion-toy", tier=2)

    with pytest.raises(RefusedError) as refused:
        check_same(LoadModel(model="toy", **fields), entry, ())  # type: ignore[arg-type]

    assert (refused.value.code, refused.value.failure.param) == ("conflict", param)


def test_an_order_that_says_the_same_as_the_catalogue_is_none() -> None:
    entry = ModelEntry(id="toy", kind="chat", path="embedded:fusion-toy", tier=2)

    check_same(LoadModel(model="toy", path="embedded:fusion-toy", kind="chat", priority="normal"), entry, ())
