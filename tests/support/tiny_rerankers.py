"""Folders of rerankers with random numbers: cross-encoders of three families, and one that says yes or no."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.support.tiny_bert import WORDS, Floats, write_json

CROSS_ENCODERS = ("bert", "xlm-roberta", "modernbert")
FAMILIES = (*CROSS_ENCODERS, "qwen3")
MAX_TOKENS = 48
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_WIDTH, _INNER, _HEADS, _LAYERS = 64, 96, 2, 4


def write_reranker(path: Path, family: str, *, seed: int = 0, **config: Any) -> Path:
    """Write the folder `path` and return it. `config` adds to its config.json; None takes away."""
    tokenizer = _tokenizer(family)
    words = tokenizer.get_vocab_size()
    said = _CONFIGS[family] | {"model_type": family, "vocab_size": words, "hidden_size": _WIDTH}
    said |= {"num_attention_heads": _HEADS, "num_hidden_layers": _LAYERS, "intermediate_size": _INNER} | config
    write_json(path / "config.json", {name: value for name, value in said.items() if value is not None})
    write_json(path / "tokenizer_config.json", {"model_max_length": 512 if family == "qwen3" else MAX_TOKENS})
    tokenizer.save(str(path / "tokenizer.json"))
    save_file(_Weights(np.random.default_rng(seed)).of(family, words), path / "model.safetensors")
    return path


_CLASSIFIER = {"id2label": {"0": "LABEL_0"}}
_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _CLASSIFIER
    | {
        "architectures": ["BertForSequenceClassification"],
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "type_vocab_size": 2,
    },
    "xlm-roberta": _CLASSIFIER
    | {
        "architectures": ["XLMRobertaForSequenceClassification"],
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    },
    "modernbert": _CLASSIFIER
    | {
        "architectures": ["ModernBertForSequenceClassification"],
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "local_attention": 8,
        "classifier_pooling": "mean",
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "max_position_embeddings": 512,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    },
}


class _Weights:
    """Draws the weights of one model, with the names that transformers gives them."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._drawn: dict[str, Floats] = {}

    def of(self, family: str, words: int) -> dict[str, Floats]:
        match family:
            case "bert" | "xlm-roberta":
                self._bert("bert." if family == "bert" else "roberta.", words, types=2 if family == "bert" else 1)
            case "modernbert":
                self._modernbert(words)
            case _:
                self._qwen3(words)
        head = {"bert": "classifier", "xlm-roberta": "classifier.out_proj", "modernbert": "classifier"}.get(family)
        if head:
            self._dense(head, _WIDTH, 1)
        return self._drawn

    def _bert(self, prefix: str, words: int, types: int) -> None:
        embeddings = f"{prefix}embeddings."
        self._draw(f"{embeddings}word_embeddings.weight", words, _WIDTH)
        self._draw(f"{embeddings}position_embeddings.weight", 64, _WIDTH)
        self._draw(f"{embeddings}token_type_embeddings.weight", types, _WIDTH)
        self._norm(f"{embeddings}LayerNorm")
        for number in range(_LAYERS):
            layer = f"{prefix}encoder.layer.{number}"
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                self._dense(f"{layer}.attention.{part}", _WIDTH, _WIDTH)
            self._norm(f"{layer}.attention.output.LayerNorm")
            self._dense(f"{layer}.intermediate.dense", _WIDTH, _INNER)
            self._dense(f"{layer}.output.dense", _INNER, _WIDTH)
            self._norm(f"{layer}.output.LayerNorm")
        self._dense("bert.pooler.dense" if prefix == "bert." else "classifier.dense", _WIDTH, _WIDTH)

    def _modernbert(self, words: int) -> None:
        self._draw("model.embeddings.tok_embeddings.weight", words, _WIDTH)
        norms = ["model.embeddings.norm", "model.final_norm", "head.norm"]
        for number in range(_LAYERS):
            layer = f"model.layers.{number}"
            norms += [f"{layer}.mlp_norm", *[f"{layer}.attn_norm"] * (number > 0)]
            self._dense(f"{layer}.attn.Wqkv", _WIDTH, 3 * _WIDTH, bias=False)
            self._dense(f"{layer}.attn.Wo", _WIDTH, _WIDTH, bias=False)
            self._dense(f"{layer}.mlp.Wi", _WIDTH, 2 * _INNER, bias=False)
            self._dense(f"{layer}.mlp.Wo", _INNER, _WIDTH, bias=False)
        self._dense("head.dense", _WIDTH, _WIDTH, bias=False)
        for name in norms:
            self._norm(name, bias=False)

    def _qwen3(self, words: int) -> None:
        self._draw("model.embed_tokens.weight", words, _WIDTH)
        norms = ["model.norm"]
        for number in range(_LAYERS):
            layer = f"model.layers.{number}"
            norms += [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"]
            for part, outputs in (("q", 64), ("k", 32), ("v", 32)):
                self._dense(f"{layer}.self_attn.{part}_proj", _WIDTH, outputs, bias=False)
            self._dense(f"{layer}.self_attn.o_proj", 64, _WIDTH, bias=False)
            for part in "qk":
                self._draw(f"{layer}.self_attn.{part}_norm.weight", 32, spread=0.1, centre=1.0)
            for part, inputs, outputs in (("gate", _WIDTH, _INNER), ("up", _WIDTH, _INNER), ("down", _INNER, _WIDTH)):
                self._dense(f"{layer}.mlp.{part}_proj", inputs, outputs, bias=False)
        for name in norms:
            self._norm(name, bias=False)

    def _draw(self, name: str, *shape: int, spread: float = 1.0, centre: float = 0.0) -> None:
        self._drawn[name] = self._random.normal(centre, spread, shape).astype(np.float32)

    def _dense(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> None:
        # Wide enough that what is said of a document moves its score.
        self._draw(f"{name}.weight", outputs, inputs, spread=1.5 * inputs**-0.5)
        if bias:
            self._draw(f"{name}.bias", outputs, spread=0.1)

    def _norm(self, name: str, *, bias: bool = True) -> None:
        # Centred at 0 instead of 1 these would make all texts look the same.
        self._draw(f"{name}.weight", _WIDTH, spread=0.1, centre=1.0)
        if bias:
            self._draw(f"{name}.bias", _WIDTH, spread=0.1)


def _tokenizer(family: str) -> Tokenizer:
    if family == "qwen3":
        return _prompt_tokenizer()
    words = (*_SPECIAL, *WORDS)
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] [SEP] $B [SEP]" if family == "xlm-roberta" else "[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # As in many a folder, where forgetting to switch them off goes unnoticed.
    tokenizer.enable_truncation(max_length=8)
    tokenizer.enable_padding(length=8)
    return tokenizer


def _prompt_tokenizer() -> Tokenizer:
    """Return one of bytes, with the marks of turns and the two answers."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate([*letters, "ye", "yes", "no"])}
    tokenizer = Tokenizer(models.BPE(words, [("y", "e"), ("ye", "s"), ("n", "o")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer
