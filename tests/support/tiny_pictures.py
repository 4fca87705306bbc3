"""Makes embedding models of random weights that read texts and pictures. The same seed gives the same weights."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.support.tiny_bert import write_json

DIMENSIONS = 64
MAX_TOKENS = 512
SIGLIP_TOKENS = 16
MARKS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)

_VOCABULARY = 600
_LICENSE = Path(__file__).parents[2] / "LICENSE"
_INNER, _VISION, _PATCH, _MERGED = 128, 32, 4, 4 * 32
_TEXT = {
    "hidden_size": DIMENSIONS,
    "intermediate_size": _INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": _VOCABULARY,
    "max_position_embeddings": MAX_TOKENS,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
TEXT_SETTINGS = (*_TEXT, "rope_theta", "rope_scaling")
# An image has 4 to 64 tokens, of 8 × 8 pixels.
_PIXELS = {"patch_size": _PATCH, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 256, "max_pixels": 4096}
_SIGLIP = {"hidden_size": 64, "intermediate_size": _INNER, "num_hidden_layers": 2, "num_attention_heads": 4}

Shapes = dict[str, tuple[int, ...]]


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return an image with large coloured spots, so that scaling it down leaves something."""
    spots = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    return np.ascontiguousarray(spots[rows][:, columns])


def qwen2_vl(folder: Path, **config: object) -> Path:
    """Write a Qwen2-VL of 0.2 million weights. It has a head for words, as Ops-MM-embedding has, which is not used."""
    tokens = _write_tokenizer(folder)
    vision = {"depth": 2, "embed_dim": _VISION, "num_heads": 2, "mlp_ratio": 2, "patch_size": _PATCH, "hidden_size": 64}
    rope = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    said = {"model_type": "qwen2_vl", **_TEXT, **rope, **tokens, "vision_config": vision, **config}
    write_json(folder / "config.json", said)
    means = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    kind = {"image_processor_type": "Qwen2VLImageProcessor"}
    write_json(folder / "preprocessor_config.json", {**_PIXELS, **means, **kind})
    _write_weights(folder, _qwen2_shapes())
    return folder


def qwen3_vl(folder: Path, **config: object) -> Path:
    """Write a Qwen3-VL of 0.2 million weights, without a head for words, as the larger of Qwen's own are."""
    tokens = _write_tokenizer(folder)
    vision = {"depth": 3, "hidden_size": _VISION, "intermediate_size": 64, "out_hidden_size": 64, "num_heads": 2}
    vision |= {"num_position_embeddings": 16, "patch_size": _PATCH}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    text = {"model_type": "qwen3_vl_text", **_TEXT, "head_dim": 16, "rope_theta": 5e6, "rope_scaling": rope}
    parts = {"text_config": text, "vision_config": {**vision, "deepstack_visual_indexes": [0, 1]}}
    write_json(folder / "config.json", {"model_type": "qwen3_vl", **tokens, **parts, **config})
    kind = {"image_processor_type": "Qwen2VLImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_json(folder / "preprocessor_config.json", {**_PIXELS, **kind})
    _write_weights(folder, _qwen3_shapes())
    return folder


def siglip(folder: Path) -> Path:
    """Write a SigLIP of 0.2 million weights, for texts of 16 tokens and images of 16 × 16 pixels."""
    tokenizer = _trained(("<pad>", "</s>"), decoders.ByteLevel())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    # As in Google's own files, where forgetting to switch them off goes unnoticed.
    tokenizer.enable_truncation(max_length=8)
    tokenizer.enable_padding(length=8)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"pad_token": "</s>", "model_max_length": SIGLIP_TOKENS})
    text = {"vocab_size": _VOCABULARY, "max_position_embeddings": SIGLIP_TOKENS, **_SIGLIP, "bos_token_id": 1}
    vision = {"image_size": 16, "patch_size": _PATCH, **_SIGLIP, "hidden_act": "gelu_pytorch_tanh"}
    write_json(folder / "config.json", {"model_type": "siglip", "text_config": text, "vision_config": vision})
    size = {"size": {"height": 16, "width": 16}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_json(folder / "preprocessor_config.json", {**size, "image_processor_type": "SiglipImageProcessor"})
    _write_weights(folder, _siglip_shapes())
    return folder


FAMILIES: Mapping[str, Callable[[Path], Path]] = {"qwen2_vl": qwen2_vl, "qwen3_vl": qwen3_vl, "siglip": siglip}


def _write_tokenizer(folder: Path) -> dict[str, int]:
    """Write a tokenizer as Qwen's are, and return what config.json says of its marks."""
    folder.mkdir(parents=True)
    tokenizer = _trained(MARKS, decoders.ByteLevel())
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": MARKS[0], "model_max_length": 10**6},
    )
    names = ("vision_start", "vision_end", "image", "video")
    return {f"{name}_token_id": number for number, name in enumerate(names, 3)}


def _trained(marks: tuple[str, ...], decoder: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoder
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(marks),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LICENSE.read_text().splitlines(), trainer)
    return tokenizer


def _write_weights(folder: Path, shapes: Shapes) -> None:
    random = np.random.default_rng(5)
    weights = {name: _drawn(random, name, shape) for name, shape in sorted(shapes.items())}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _drawn(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if len(shape) == 1:  # Those of norms lie around 1: around 0 they would make all texts look the same.
        return random.normal(float(name.endswith(".weight")), 0.1, shape).astype(np.float32)
    is_table = len(shape) == 2 and "embed" in name.split(".")[-2]
    inputs = 1 if is_table else np.prod(shape[1:])
    return random.normal(0, float(inputs) ** -0.5, shape).astype(np.float32)


def _linear(shapes: Shapes, name: str, inputs: int, outputs: int, *, has_bias: bool = True) -> None:
    shapes[f"{name}.weight"] = (outputs, inputs)
    if has_bias:
        shapes[f"{name}.bias"] = (outputs,)


def _norm(shapes: Shapes, name: str, size: int) -> None:
    shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _language_shapes(root: str, *, has_norms: bool) -> Shapes:
    shapes: Shapes = {f"{root}.embed_tokens.weight": (_VOCABULARY, 64), f"{root}.norm.weight": (64,)}
    plain = partial(_linear, shapes, has_bias=False)
    for layer in (f"{root}.layers.0", f"{root}.layers.1"):
        for name, size in (("q", 64), ("k", 32), ("v", 32)):
            _linear(shapes, f"{layer}.self_attn.{name}_proj", 64, size, has_bias=not has_norms)
        plain(f"{layer}.self_attn.o_proj", 64, 64)
        plain(f"{layer}.mlp.gate_proj", 64, _INNER)
        plain(f"{layer}.mlp.up_proj", 64, _INNER)
        plain(f"{layer}.mlp.down_proj", _INNER, 64)
        shapes |= {f"{layer}.{name}_layernorm.weight": (64,) for name in ("input", "post_attention")}
        if has_norms:
            shapes |= {f"{layer}.self_attn.{name}_norm.weight": (16,) for name in "qk"}
    return shapes


def _vision_shapes(root: str, depth: int, linear: str) -> Shapes:
    shapes: Shapes = {f"{root}.patch_embed.proj.weight": (_VISION, 3, 2, _PATCH, _PATCH)}
    for block in (f"{root}.blocks.{number}" for number in range(depth)):
        _linear(shapes, f"{block}.attn.qkv", _VISION, 3 * _VISION)
        _linear(shapes, f"{block}.attn.proj", _VISION, _VISION)
        _linear(shapes, f"{block}.mlp.{linear}1", _VISION, 64)
        _linear(shapes, f"{block}.mlp.{linear}2", 64, _VISION)
        _norm(shapes, f"{block}.norm1", _VISION)
        _norm(shapes, f"{block}.norm2", _VISION)
    return shapes


def _qwen2_shapes() -> Shapes:
    shapes = _language_shapes("model", has_norms=False) | _vision_shapes("visual", 2, "fc")
    shapes["lm_head.weight"] = (_VOCABULARY, 64)
    _norm(shapes, "visual.merger.ln_q", _VISION)
    _linear(shapes, "visual.merger.mlp.0", _MERGED, _MERGED)
    _linear(shapes, "visual.merger.mlp.2", _MERGED, 64)
    return shapes


def _qwen3_shapes() -> Shapes:
    vision = "model.visual"
    shapes = _language_shapes("model.language_model", has_norms=True) | _vision_shapes(vision, 3, "linear_fc")
    shapes |= {f"{vision}.patch_embed.proj.bias": (_VISION,), f"{vision}.pos_embed.weight": (16, _VISION)}
    merged = {"merger": _VISION, "deepstack_merger_list.0": _MERGED, "deepstack_merger_list.1": _MERGED}
    for name, size in merged.items():
        _norm(shapes, f"{vision}.{name}.norm", size)
        _linear(shapes, f"{vision}.{name}.linear_fc1", _MERGED, _MERGED)
        _linear(shapes, f"{vision}.{name}.linear_fc2", _MERGED, 64)
    return shapes


def _siglip_shapes() -> Shapes:
    shapes: Shapes = {"logit_bias": (1,), "logit_scale": (1,)}
    for side in ("text_model", "vision_model"):
        shapes[f"{side}.embeddings.position_embedding.weight"] = (16, 64)
        for layer in (f"{side}.encoder.layers.{number}" for number in range(2)):
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                _linear(shapes, f"{layer}.self_attn.{name}", 64, 64)
            _perceptron(shapes, f"{layer}.mlp")
            _norm(shapes, f"{layer}.layer_norm1", 64)
            _norm(shapes, f"{layer}.layer_norm2", 64)
    shapes["text_model.embeddings.token_embedding.weight"] = (_VOCABULARY, 64)
    _norm(shapes, "text_model.final_layer_norm", 64)
    _linear(shapes, "text_model.head", 64, 64)
    patch = "vision_model.embeddings.patch_embedding"
    head = "vision_model.head"
    shapes |= {f"{patch}.weight": (64, 3, _PATCH, _PATCH), f"{patch}.bias": (64,), f"{head}.probe": (1, 1, 64)}
    shapes |= {f"{head}.attention.in_proj_weight": (192, 64), f"{head}.attention.in_proj_bias": (192,)}
    _linear(shapes, f"{head}.attention.out_proj", 64, 64)
    _perceptron(shapes, f"{head}.mlp")
    _norm(shapes, f"{head}.layernorm", 64)
    _norm(shapes, "vision_model.post_layernorm", 64)
    return shapes


def _perceptron(shapes: Shapes, name: str) -> None:
    _linear(shapes, f"{name}.fc1", 64, _INNER)
    _linear(shapes, f"{name}.fc2", _INNER, 64)
