from pathlib import Path
from typing import Any

import pytest

from actors.engines.rerank_folder import read_rerank_folder
from bus.errors import RefusedError
from tests.support.tiny_bert import write_json
from tests.support.tiny_rerankers import MAX_TOKENS, write_reranker


@pytest.mark.parametrize(
    ("family", "max_tokens"), [("bert", MAX_TOKENS), ("xlm-roberta", MAX_TOKENS), ("modernbert", 48), ("qwen3", 512)]
)
def test_folder_tells_its_family_and_limit(tmp_path: Path, family: str, max_tokens: int) -> None:
    folder = read_rerank_folder(write_reranker(tmp_path, family))

    assert (folder.family, folder.max_tokens) == (family.replace("-", "_"), max_tokens)
    assert folder.is_generative == (family == "qwen3")


def test_limit_is_at_most_the_number_of_positions(tmp_path: Path) -> None:
    limits = {}
    for family, positions in (("bert", 64), ("xlm-roberta", 64), ("qwen3", 40960)):
        folder = write_reranker(tmp_path / family, family, max_position_embeddings=positions)
        write_json(folder / "tokenizer_config.json", {"model_max_length": 10**30})
        limits[family] = read_rerank_folder(folder).max_tokens

    assert limits == {"bert": 64, "xlm-roberta": 63, "qwen3": 8192}


@pytest.mark.parametrize(
    "config",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"},
        {"id2label": None, "num_labels": 1},
    ],
)
def test_folder_may_say_what_changes_no_order(tmp_path: Path, config: dict[str, Any]) -> None:
    assert read_rerank_folder(write_reranker(tmp_path, "bert", **config)).family == "bert"


@pytest.mark.parametrize(
    ("family", "config", "why"),
    [
        ("bert", {"model_type": "deberta_v2"}, "is of family deberta_v2, not one of bert, modernbert, qwen3"),
        ("bert", {"model_type": None}, "is of family none"),
        ("bert", {"architectures": ["BertModel"]}, "has the architecture BertModel"),
        ("bert", {"architectures": None}, "has the architecture none"),
        ("bert", {"id2label": {"0": "a", "1": "b"}}, "tells 2 labels apart"),
        ("bert", {"hidden_act": "relu"}, "has the hidden_act relu"),
        ("modernbert", {"classifier_activation": "tanh"}, "has the classifier_activation tanh"),
        ("modernbert", {"layer_types": ["sliding_attention"] * 4}, "has layer_types in an order"),
        ("bert", {"position_embedding_type": "relative_key"}, "has relative_key positions"),
        ("bert", {"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, r"scores by torch\.nn\.Tanh"),
        ("bert", {"sbert_ce_default_activation_function": "my.own"}, r"scores by my\.own"),
        ("bert", {"max_position_embeddings": None}, "does not say its max_position_embeddings"),
        ("bert", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised in a way"),
        ("qwen3", {"architectures": ["Qwen3ForSequenceClassification"]}, "it is …ForCausalLM that can rerank"),
    ],
)
def test_what_would_give_other_scores_is_refused(tmp_path: Path, family: str, config: dict[str, Any], why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        read_rerank_folder(write_reranker(tmp_path, family, **config))


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as raised:
        read_rerank_folder(tmp_path / "nothing")

    assert raised.value.code == "model_not_found"
