from pathlib import Path

import pytest

from actors.configuration import configuration
from bus.settings import SettingsError


def write(folder: Path, models: str) -> Path:
    path = folder / "fusion.yaml"
    path.write_text(f"models: [{models}]")
    return path


def test_models_of_the_file_are_the_catalogue(tmp_path: Path) -> None:
    path = write(tmp_path, "{id: a, kind: chat, draft_model: ./small}, {id: b/c, kind: embeddings, tier: 0}")

    models = configuration(path, {}).models

    assert [(model.id, model.kind, model.draft_model, model.tier) for model in models] == [
        ("a", "chat", "./small", 1),
        ("b/c", "embeddings", "", 0),
    ]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("{id: a, kind: chat}, {id: a, kind: chat}", "models: 'a' stands there twice"),
        ("{id: a, kind: embeddings, draft_model: b}", r"models\[0\]: `draft_model` is for chat models"),
        ("{id: a, kind: chat}, {id: b, kind: embeddings, context_length: 5}", r"models\[1\]: `context_length` is for"),
        ("{id: a, kind: embeddings, kv_bits: 4}", r"models\[0\]: `kv_bits` is for chat models"),
        ("{id: a, kind: embeddings, trust_code: true}", r"models\[0\]: `trust_code` is for chat models"),
        ('{id: "a\\n", kind: chat}', r"models\[0\].id: Expected `str` matching regex"),
        ("{id: a, kind: chat, kv_bits: 2}", r"models\[0\].kv_bits: Invalid enum value 2"),
        ("{id: a, kind: picture}", r"models\[0\].kind: Invalid enum value 'picture'"),
    ],
    ids=["twice", "draft", "context", "bits of others", "code of others", "line", "bits", "kind"],
)
def test_catalogue_that_cannot_be_is_refused_with_its_place(tmp_path: Path, models: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        configuration(write(tmp_path, models), {})
