import json
from pathlib import Path
from typing import Any

import pytest

from actors.catalogue import ModelFilesError
from actors.engines.embeddings_folder import read_folder
from bus.errors import RefusedError
from tests.support.tiny_bert import write_json, write_tiny_bert


def change(path: Path, **fields: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **fields})


def test_folder_says_how_texts_become_vectors(tmp_path: Path) -> None:
    folder = read_folder(write_tiny_bert(tmp_path))

    assert (folder.family, folder.pooling, folder.is_normalised) == ("bert", "mean", True)
    assert (folder.max_tokens, folder.vocabulary_size, folder.is_quantised) == (48, 18, False)


@pytest.mark.parametrize(
    ("declared", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_max_tokens": True, "include_prompt": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_pooling_is_the_declared_one(tmp_path: Path, declared: dict[str, object], pooling: str) -> None:
    write_tiny_bert(tmp_path)
    write_json(tmp_path / "1_Pooling" / "config.json", declared)

    folder = read_folder(tmp_path)
    assert (folder.pooling, folder.includes_prompt) == (pooling, True)


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean_tokens"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean_tokens \\+ cls_token"),
        ({"pooling_mode_mean_tokens": False}, "nothing"),
    ],
)
def test_unsupported_pooling_is_refused_by_name(tmp_path: Path, declared: dict[str, object], told: str) -> None:
    write_tiny_bert(tmp_path)
    write_json(tmp_path / "1_Pooling" / "config.json", declared)

    with pytest.raises(RefusedError, match=f"pools by {told}, not one of"):
        read_folder(tmp_path)


def test_folder_without_pooling_or_modules_means_mean_and_normalised(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path, pooling="cls_token", is_normalised=False)
    (tmp_path / "1_Pooling" / "config.json").unlink()
    (tmp_path / "modules.json").unlink()

    folder = read_folder(tmp_path)

    assert (folder.pooling, folder.is_normalised) == ("mean", True)


def test_undeclared_pooling_of_qwen3_is_the_last_token(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "qwen3", "vocab_size": 9, "max_position_embeddings": 99})

    assert read_folder(tmp_path).pooling == "last"


def test_modules_without_normalize_leave_vectors_as_they_are(tmp_path: Path) -> None:
    assert not read_folder(write_tiny_bert(tmp_path, is_normalised=False)).is_normalised


def test_module_that_changes_vectors_otherwise_is_refused(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path)
    write_json(tmp_path / "modules.json", [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}])

    with pytest.raises(RefusedError, match="Dense"):
        read_folder(tmp_path)


def test_limit_falls_back_from_sentence_config_to_tokenizer_to_positions(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path)
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 32})
    limits = [read_folder(tmp_path).max_tokens]

    (tmp_path / "sentence_bert_config.json").unlink()
    limits.append(read_folder(tmp_path).max_tokens)
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 1e30})
    limits.append(read_folder(tmp_path).max_tokens)

    assert limits == [48, 32, 64]


def test_limit_never_exceeds_the_positions(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path)
    change(tmp_path / "sentence_bert_config.json", max_seq_length=512)
    change(tmp_path / "config.json", model_type="xlm-roberta", pad_token_id=1)

    assert read_folder(tmp_path).max_tokens == 62


def test_unlimited_folder_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "qwen3", "vocab_size": 9})

    with pytest.raises(RefusedError, match="how many tokens"):
        read_folder(tmp_path)


def test_family_without_one_vector_per_text_is_refused(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path)
    change(tmp_path / "config.json", model_type="lfm2")

    with pytest.raises(RefusedError, match="family lfm2, not one of bert"):
        read_folder(tmp_path)


@pytest.mark.parametrize("said", [{"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}])
def test_layers_that_the_library_would_compute_otherwise_are_refused(tmp_path: Path, said: dict[str, str]) -> None:
    change(write_tiny_bert(tmp_path) / "config.json", hidden_act="gelu", position_embedding_type="absolute")
    read_folder(tmp_path)
    change(tmp_path / "config.json", **said)

    with pytest.raises(RefusedError, match=f"has the {next(iter(said))} {said.popitem()[1]}"):
        read_folder(tmp_path)


def test_prompts_are_those_declared(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path)
    file = tmp_path / "config_sentence_transformers.json"
    plain = read_folder(tmp_path)
    write_json(file, {"prompts": {"query": "query: ", "document": None}, "default_prompt_name": None})
    optional = read_folder(tmp_path)
    change(file, default_prompt_name="query")

    assert (plain.prompts, plain.default_prompt) == ({}, "")
    assert (optional.prompts, optional.default_prompt) == ({"query": "query: ", "document": ""}, "")
    assert read_folder(tmp_path).default_prompt == "query: "


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"prompts": {"query": "q: "}, "default_prompt_name": "passage"}, "the prompt passage"),
        ({"truncate_dim": 16}, "cuts every vector to 16"),
    ],
)
def test_default_that_cannot_be_honoured_is_refused(tmp_path: Path, declared: dict[str, Any], told: str) -> None:
    write_json(write_tiny_bert(tmp_path) / "config_sentence_transformers.json", declared)

    with pytest.raises(RefusedError, match=told):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("declared", "offered"),
    [
        ({}, None),
        ({"is_matryoshka": False}, None),
        ({"is_matryoshka": True}, ()),
        ({"is_matryoshka": True, "matryoshka_dimensions": [32, 16]}, (32, 16)),
        ({"matryoshka_dimensions": [32]}, (32,)),
    ],
)
def test_dimensions_are_read_as_vllm_does(
    tmp_path: Path, declared: dict[str, Any], offered: tuple[int, ...] | None
) -> None:
    change(write_tiny_bert(tmp_path) / "config.json", **declared)

    assert read_folder(tmp_path).matryoshka_dimensions == offered


@pytest.mark.parametrize(("content", "error"), [("{", ModelFilesError), ('[{"type": 1}]', RefusedError)])
def test_broken_file_is_named(tmp_path: Path, content: str, error: type[Exception]) -> None:
    write_tiny_bert(tmp_path)
    (tmp_path / "modules.json").write_text(content)

    with pytest.raises(error, match=r"modules\.json"):
        read_folder(tmp_path)


def test_infinity_is_a_number(tmp_path: Path) -> None:
    change(write_tiny_bert(tmp_path) / "config.json", rope_scaling=float("inf"))

    assert read_folder(tmp_path).family == "bert"


def test_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        read_folder(tmp_path / "absent")

    assert refused.value.code == "model_not_found"
