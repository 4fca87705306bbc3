"""A BERT folder of random numbers in the layout of sentence-transformers, and the same model in numpy."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

Floats = NDArray[np.float32]

WORDS = (
    "a",
    "bird",
    "sings",
    "in",
    "the",
    "old",
    "tree",
    "river",
    "runs",
    "cold",
    "and",
    "fast",
    "##s",
    "##ing",
)
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS)
MAX_TOKENS = 48
_WIDTH, _INNER, _HEADS, _LAYERS = 64, 96, 2, 2


def write_tiny_bert(path: Path, *, pooling: str = "mean_tokens", is_normalised: bool = True, seed: int = 0) -> Path:
    """Write the folder `path` and return it. The same `seed` gives the same weights."""
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * is_normalised
    modules = [
        {"path": "1_Pooling" if kind == "Pooling" else "", "type": f"sentence_transformers.models.{kind}"}
        for kind in kinds
    ]
    write_json(path / "modules.json", modules)
    write_json(path / "1_Pooling" / "config.json", {f"pooling_mode_{pooling}": True})
    write_json(path / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    write_json(
        path / "config.json",
        {
            "model_type": "bert",
            "vocab_size": len(VOCABULARY),
            "hidden_size": _WIDTH,
            "intermediate_size": _INNER,
            "num_attention_heads": _HEADS,
            "num_hidden_layers": _LAYERS,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        },
    )
    save_file(_weights(np.random.default_rng(seed)), path / "model.safetensors")
    _tokenizer().save(str(path / "tokenizer.json"))
    return path


def write_json(path: Path, content: object) -> None:
    """Write `content` to `path`, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def hidden_states(path: Path, tokens: tuple[int, ...]) -> Floats:
    """Return the last hidden states of one text, computed in numpy: a row per token."""
    weights = load_file(path / "model.safetensors")
    states = weights["embeddings.word_embeddings.weight"][list(tokens)]
    states = states + weights["embeddings.position_embeddings.weight"][: len(tokens)]
    states = states + weights["embeddings.token_type_embeddings.weight"][0]
    states = _norm(weights, "embeddings.LayerNorm", states)
    for number in range(_LAYERS):
        layer = f"encoder.layer.{number}."
        attended = _linear(weights, layer + "attention.output.dense", _attention(weights, layer, states))
        states = _norm(weights, layer + "attention.output.LayerNorm", attended + states)
        inner = _gelu(_linear(weights, layer + "intermediate.dense", states))
        states = _norm(weights, layer + "output.LayerNorm", _linear(weights, layer + "output.dense", inner) + states)
    return states


def _weights(random: np.random.Generator) -> dict[str, Floats]:
    weights: dict[str, Floats] = {}

    def draw(name: str, *shape: int, spread: float = 1.0, centre: float = 0.0) -> None:
        weights[name] = random.normal(centre, spread, shape).astype(np.float32)

    def dense(name: str, inputs: int, outputs: int) -> None:
        draw(f"{name}.weight", outputs, inputs, spread=inputs**-0.5)
        draw(f"{name}.bias", outputs, spread=0.1)

    def norm(name: str) -> None:
        # Centred at 0 instead of 1 these would make all texts look the same.
        draw(f"{name}.weight", _WIDTH, spread=0.1, centre=1.0)
        draw(f"{name}.bias", _WIDTH, spread=0.1)

    draw("embeddings.word_embeddings.weight", len(VOCABULARY), _WIDTH)
    draw("embeddings.position_embeddings.weight", 64, _WIDTH)
    draw("embeddings.token_type_embeddings.weight", 2, _WIDTH)
    norm("embeddings.LayerNorm")
    for number in range(_LAYERS):
        layer = f"encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{layer}.attention.{part}", _WIDTH, _WIDTH)
        norm(f"{layer}.attention.output.LayerNorm")
        dense(f"{layer}.intermediate.dense", _WIDTH, _INNER)
        dense(f"{layer}.output.dense", _INNER, _WIDTH)
        norm(f"{layer}.output.LayerNorm")
    dense("pooler.dense", _WIDTH, _WIDTH)
    return weights


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # As in MiniLM's own file, where forgetting to switch them off goes unnoticed.
    tokenizer.enable_truncation(max_length=8)
    tokenizer.enable_padding(length=8)
    return tokenizer


def _linear(weights: Mapping[str, Floats], name: str, states: Floats) -> Floats:
    return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(weights: Mapping[str, Floats], name: str, states: Floats) -> Floats:
    centred = states - states.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"], dtype=np.float32)


def _attention(weights: Mapping[str, Floats], layer: str, states: Floats) -> Floats:
    query, key, value = (
        np.stack(np.split(_linear(weights, f"{layer}attention.self.{part}", states), _HEADS, axis=-1))
        for part in ("query", "key", "value")
    )
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(_WIDTH // _HEADS)
    chances = np.exp(scores - scores.max(axis=-1, keepdims=True))
    chances /= chances.sum(axis=-1, keepdims=True)
    return np.concatenate(list(chances @ value), axis=-1)


def _gelu(states: Floats) -> Floats:
    halves = 0.5 * (1 + np.vectorize(math.erf)(states / math.sqrt(2)))
    return np.asarray(states * halves, dtype=np.float32)
