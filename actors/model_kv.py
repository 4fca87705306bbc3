"""What a language model keeps of the tokens that it has read: its keys and values."""

from msgspec import Struct

from actors.model_config import ModelConfig

# Whose keys and values mlx-lm keeps whole, though their configuration speaks of compressed ones.
_UNCOMPRESSED = ("deepseek_v2", "minicpm3", "youtu_llm")
_SLIDING = ("sliding_attention", "chunked_attention")
_WITHOUT = ("linear_attention", "mamba", "mamba2", "recurrent", "conv")


class KvShape(Struct, frozen=True, kw_only=True):
    """How many numbers there are of each token: `full` of all tokens, `sliding` of the last `window` only."""

    full: int
    sliding: int = 0
    window: int = 0

    def numbers(self, tokens: int) -> int:
        """Return how many there are of a text of so many tokens."""
        return self.full * tokens + self.sliding * min(tokens, self.window)


def kv_shape(config: ModelConfig) -> KvShape | None:
    """Return what the language model in `config` keeps; None if its sizes are not said.

    What a recurrent layer keeps is of one size for all texts, and small.
    """
    language = config.language
    layers = language.number("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    width = _width(language)
    if not layers or not width:
        return None
    full, sliding = _layers(language, layers)
    window = language.number("sliding_window", "attention_chunk_size")
    if window is None:
        return KvShape(full=(full + sliding) * width)
    return KvShape(full=full * width, sliding=sliding * width, window=window)


def _width(language: ModelConfig) -> int | None:
    """Return how many numbers a layer keeps of a token: heads × size of a head × 2, or compressed ones."""
    heads = language.number("num_attention_heads", "n_head", "n_heads")
    hidden = language.number("hidden_size", "n_embd", "d_model")
    if not heads or not hidden:
        return None
    rank, rope = language.number("kv_lora_rank"), language.number("qk_rope_head_dim")
    if rank and rope:
        if language.text("model_type") not in _UNCOMPRESSED:
            return rank + rope
        return heads * ((language.number("qk_nope_head_dim") or 0) + rope + (language.number("v_head_dim") or 0))
    kv_heads = language.number("num_key_value_heads", "num_kv_heads", "n_kv_heads") or heads
    return 2 * kv_heads * (language.number("head_dim") or hidden // heads)


def _layers(language: ModelConfig, layers: int) -> tuple[int, int]:
    """Return how many layers see all tokens, and how many only the last ones."""
    if types := language.texts("layer_types"):
        sliding = sum(each in _SLIDING for each in types)
        return len(types) - sliding - sum(each in _WITHOUT for each in types), sliding
    if pattern := language.number("sliding_window_pattern"):
        return layers // pattern, layers - layers // pattern
    if interval := language.number("full_attention_interval"):
        return layers // interval, 0
    return layers, 0
