"""Makes language models of random weights. They load like real ones; their gibberish is always the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BEGIN, END = "<|begin|>", "<|end|>"
VOCAB_SIZE = 512
CONTEXT_LENGTH = 256

_LICENSE = Path(__file__).parents[2] / "LICENSE"
_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ message.role + ': ' + message.content + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


# Opens the reasoning, as the templates of models do that always think, unless it is told not to.
_THINKING_TEMPLATE = (
    "{% for tool in tools or [] %}{{ 'tool: ' + (tool | tojson) + '\n' }}{% endfor %}"
    "{% for message in messages %}"
    "{{ message.role + ': ' }}"
    "{% if message.reasoning_content %}{{ '<think>' + message.reasoning_content + '</think>' }}{% endif %}"
    "{{ message.content }}"
    "{% for tool_call in message.tool_calls or [] %}"
    "{% set tool_call = tool_call.function %}"
    "{{ '<tool_call>' + tool_call.name + ' ' + (tool_call.arguments | dictsort | tojson) + '</tool_call>' }}"
    "{% endfor %}"
    "{{ (' for ' + message.tool_call_id if message.tool_call_id else '') + '\n' }}"
    "{% endfor %}"
    "{{ 'assistant: ' + ('<think>\n' if enable_thinking else '<think>\n\n</think>\n') }}"
)
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")


def thinking(folder: Path) -> Path:
    """Write such a model whose template has it think, and call tools as Qwen's do."""
    return marked(folder, MARKS, _THINKING_TEMPLATE)


def marked(folder: Path, marks: tuple[str, ...], template: str = _TEMPLATE) -> Path:
    """Write such a model with `marks` as special tokens, which its template names."""
    llama(folder)
    _tokenizer(marks).save(str(folder / "tokenizer.json"))
    config = folder / "tokenizer_config.json"
    named = "{# " + " ".join(marks) + " #}" + template
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": named}))
    return folder


def llama(folder: Path, seed: int = 7, head_dim: int = 16, layers: int = 2) -> Path:
    """Write a Llama of 0.1 million float32 weights into `folder`, with a byte-level BPE tokenizer.

    One of 200 layers loads for seconds.
    """
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head_dim,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": CONTEXT_LENGTH,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_llama_weights(seed, head_dim, layers), folder / "model.safetensors", metadata={"format": "mlx"})
    _tokenizer().save(str(folder / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "chat_template": _TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return folder


def changed(model: Path, folder: Path, **changes: dict[str, Any]) -> Path:
    """Copy `model` to `folder` with other values in its JSON files: `config={"eos_token_id": 2}`.

    `None` takes a key away. A file that is not there is made.
    """
    shutil.copytree(model, folder)
    for name, values in changes.items():
        file = folder / f"{name}.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        kept = {key: value for key, value in (known | values).items() if value is not None}
        file.write_text(json.dumps(kept))
    return folder


def _llama_weights(seed: int, head_dim: int, layers: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    random = np.random.default_rng(seed)
    shapes = {"model.embed_tokens": (VOCAB_SIZE, 64)}
    norms = ["model.norm"]
    for layer in (f"model.layers.{number}" for number in range(layers)):
        norms += [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"]
        shapes |= {f"{layer}.self_attn.q_proj": (4 * head_dim, 64), f"{layer}.self_attn.o_proj": (64, 4 * head_dim)}
        shapes |= {f"{layer}.self_attn.{name}_proj": (2 * head_dim, 64) for name in "kv"}
        shapes |= {f"{layer}.mlp.{name}_proj": (128, 64) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj"] = (64, 128)
    weights = {name: random.normal(0, 0.1, shape) for name, shape in shapes.items()}
    weights |= {name: np.ones(64) for name in norms}
    return {f"{name}.weight": weight.astype(np.float32) for name, weight in weights.items()}


def _tokenizer(marks: tuple[str, ...] = ()) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BEGIN, END, *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LICENSE.read_text().splitlines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    return tokenizer
