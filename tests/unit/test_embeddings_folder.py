import json
from pathlib import Path
from typing import Any

import pytest

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

    assert read_folder(tmp_path).pooling == pooling


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


def test_default_prompt_is_refused_and_an_optional_one_is_not(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path)
    write_json(
        tmp_path / "config_sentence_transformers.json",
        {"prompts": {"query": "query: "}, "default_prompt_name": None},
    )
    read_folder(tmp_path)

    change(tmp_path / "config_sentence_transformers.json", default_prompt_name="query")

    with pytest.raises(RefusedError, match="prompt query"):
        read_folder(tmp_path)


def test_broken_file_is_named(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path)
    (tmp_path / "modules.json").write_text("{")

    with pytest.raises(RefusedError, match=r"modules\.json"):
        read_folder(tmp_path)


def test_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        read_folder(tmp_path / "absent")

    assert refused.value.code == "model_not_found"
