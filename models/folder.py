"""The folder of a model as mlx-lm reads it: configuration, tokenizer, chat template and weights."""

import json
from pathlib import Path
from typing import Any, cast

import jinja2
import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3 import Model
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Bpe

from models.corpus import Chat, Message

CONTEXT = 1024
VOCABULARY = 1536
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Not special: a decoder must keep them, the tool parser looks for them in the text.
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>")
TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")


class Tokenizer:
    """A byte-level BPE tokenizer that keeps digits apart."""

    def __init__(self, bpe: Bpe) -> None:
        self._bpe = bpe

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, with nothing added."""
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def token_to_id(self, token: str) -> int:
        """Return the id of a token that exists."""
        found = self._bpe.token_to_id(token)
        if found is None:
            raise KeyError(token)
        return int(found)

    def size(self) -> int:
        """Return the number of tokens."""
        return int(self._bpe.get_vocab_size())

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        self._bpe.save(str(path))


def _tojson(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


_environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701 - not HTML
_environment.filters["tojson"] = _tojson
_template = _environment.from_string(TEMPLATE)


def render(messages: list[Message], tools: list[Message] | None) -> str:
    """Return a conversation as text, exactly as transformers renders the same template."""
    return _template.render(messages=messages, tools=tools, add_generation_prompt=False)


def render_call(message: Message) -> str:
    """Return what the model has to write for an assistant's message."""
    text = render([message], None)
    return text.removeprefix("<|im_start|>assistant\n").removesuffix("<|im_end|>\n")


def train_tokenizer(chats: list[Chat]) -> Tokenizer:
    """Learn the merges from the chats."""
    bpe = Bpe(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKS),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        str(message["content"]) + json.dumps(message.get("tool_calls")) for chat in chats for message in chat.messages
    )
    tools = (_tojson(tool["function"]) for chat in chats for tool in chat.tools or [])
    roles = ("system\nuser\nassistant\n" for _ in range(100))
    bpe.train_from_iterator([*texts, *tools, *roles], trainer)
    bpe.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    return Tokenizer(bpe)


def config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return config.json."""
    end, text_end = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "intermediate_size": 320,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 48,
        "rms_norm_eps": 1e-6,
        "vocab_size": -(-tokenizer.size() // 32) * 32,
        "max_position_embeddings": CONTEXT,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "attention_bias": False,
        "torch_dtype": "bfloat16",
        "eos_token_id": [end, text_end],
        "pad_token_id": text_end,
        "bos_token_id": None,
    }


def tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a folder."""
    return Tokenizer(Bpe.from_file(str(path / "tokenizer.json")))


def weights(path: Path) -> list[tuple[str, mx.array]]:
    """Return the weights of a folder in float32."""
    found = cast("dict[str, mx.array]", mx.load(str(path / "model.safetensors")))
    return [(name, value.astype(mx.float32)) for name, value in found.items()]


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }


def write(path: Path, model: Model, tokenizer: Tokenizer) -> None:
    """Write the folder, the weights in bfloat16. A folder that exists is overwritten."""
    path.mkdir(parents=True, exist_ok=True)
    flat = cast("dict[str, mx.array]", tree_flatten(model.parameters(), destination={}))
    halves = {name: value.astype(mx.bfloat16) for name, value in flat.items()}
    mx.save_safetensors(str(path / "model.safetensors"), halves, metadata={"format": "mlx"})
    tokenizer.save(path / "tokenizer.json")
    for name, content in (("config.json", config(tokenizer)), ("tokenizer_config.json", _tokenizer_config())):
        (path / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
