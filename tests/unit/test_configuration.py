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
        ("{id: a, kind: chat, aliases: [b]}, {id: b, kind: chat}", "models: 'b' stands there twice"),
        ("{id: a, kind: embeddings, draft_model: b}", r"models\[0\]: `draft_model` is for chat models"),
        ("{id: a, kind: chat}, {id: b, kind: embeddings, context_length: 5}", r"models\[1\]: `context_length` is for"),
        ("{id: a, kind: embeddings, kv_bits: 4}", r"models\[0\]: `kv_bits` is for chat models"),
        ("{id: a, kind: embeddings, trust_code: true}", r"models\[0\]: `trust_code` is for chat models"),
        ('{id: "a\\n", kind: chat}', r"models\[0\].id: Expected `str` matching regex"),
        ("{id: a, kind: chat, kv_bits: 2}", r"models\[0\].kv_bits: Invalid enum value 2"),
        ("{id: a, kind: picture}", r"models\[0\].kind: Invalid enum value 'picture'"),
    ],
    ids=["twice", "alias", "draft", "context", "bits of others", "code of others", "line", "bits", "kind"],
)
def test_catalogue_that_cannot_be_is_refused_with_its_place(tmp_path: Path, models: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        configuration(write(tmp_path, models), {})


@pytest.mark.parametrize(
    ("table", "setting", "value"),
    [
        ("bus", "silence", "-1"),
        ("bus", "admit_timeout", "0"),
        ("bus", "idle_timeout", ".nan"),
        ("nats", "port", "65536"),
        ("nats", "monitor_port", "-1"),
        ("nats", "sync", "often"),
        ("actors", "job_ack_wait", ".inf"),
        ("actors", "model_ttl", ".inf"),
        ("actors", "job_ttl_days", "1000000"),
        ("actors", "events_max_bytes", "9223372036854775808"),
        ("rag", "parse_seconds", "1.0e+10"),
        ("rag", "store_bytes", "1"),
        ("rag", "store_bytes", "1000000000000000000000000000000"),
    ],
)
def test_number_that_nothing_could_work_with_is_refused_by_its_name(
    tmp_path: Path, table: str, setting: str, value: str
) -> None:
    path = tmp_path / "fusion.yaml"
    path.write_text(f"{table}: {{{setting}: {value}}}")

    with pytest.raises(SettingsError, match=rf"fusion.yaml: {table}.{setting}: Expected"):
        configuration(path, {})


@pytest.mark.parametrize("sync", ["always", "2s", "1m30s", "0.5s"])
def test_interval_of_the_server_is_a_duration_in_its_own_words(tmp_path: Path, sync: str) -> None:
    path = tmp_path / "fusion.yaml"
    path.write_text(f"nats: {{sync: {sync}}}")

    assert configuration(path, {}).nats.sync == sync
