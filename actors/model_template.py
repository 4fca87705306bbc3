"""Tells from the tokenizer's files whether a model chats, calls tools and thinks, as mlx-lm will find when it loads."""

from pathlib import Path

import msgspec

from actors.catalogue import ModelFilesError
from actors.model_config import ModelConfig
from actors.model_files import read_json

# From mlx_lm.tokenizer_utils._infer_tool_parser: a template that has all the texts of one line calls tools.
TOOL_MARKS = (
    ("<minimax:tool_call>",),
    ("<|tool_call>", "<tool_call|>"),
    ("<start_function_call>",),
    ("<longcat_tool_call>",),
    ("<arg_key>",),
    ("<|tool_list_start|>",),
    ("<|tool_call_start|>",),
    (r"<tool_call>\n<function=",),
    ("<tool_call>\n<function=",),
    ("<|tool_calls_section_begin|>",),
    ('<function name="', '<param name="'),
    ("[TOOL_CALLS]",),
    ("<atem:function_calls>",),
    ("<tool_call>", "tool_call.name"),
)

# From the same file: the tokens of a model that calls tools, and of one that thinks.
_XTML = ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")
TOOL_TOKENS = (("<|tool_call_start|>", "<|tool_call_end|>"), _XTML)
THINK_TOKENS = (
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|channel>", "<channel|>"),
    _XTML,
)


class _Added(msgspec.Struct):
    content: str


class _Tokenizer(msgspec.Struct):
    added_tokens: list[_Added] = []


def chat_abilities(folder: Path) -> tuple[str, ...]:
    """Return which of `chat`, `tools` and `thinking` the model in `folder` is made for.

    Raises `ModelFilesError` for files that cannot be read.
    """
    config = ModelConfig(read_json(folder / "tokenizer_config.json"))
    template = _template(folder, config)
    tokens = _special_tokens(folder, config)
    abilities = {
        "chat": bool(template) or "chat_template" in config or "chat_template_type" in config,
        "tools": "tool_parser_type" in config
        or _any_has_all(TOOL_MARKS, template)
        or _any_has_all(TOOL_TOKENS, tokens),
        "thinking": _any_has_all(THINK_TOKENS, tokens),
    }
    return tuple(name for name, has in abilities.items() if has)


def _template(folder: Path, config: ModelConfig) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    return config.text("chat_template") or ModelConfig(read_json(folder / "chat_template.json")).text("chat_template")


def _special_tokens(folder: Path, config: ModelConfig) -> frozenset[str]:
    old = (each.text("content") for each in config.part("added_tokens_decoder").parts().values())
    file = folder / "tokenizer.json"
    if not file.is_file():
        return frozenset(old)
    try:
        # It may have 10 MB; what is not asked for is skipped in 15 ms.
        added = msgspec.json.decode(file.read_bytes(), type=_Tokenizer).added_tokens
    except (ValueError, RecursionError) as error:
        raise ModelFilesError(f"{file} cannot be read: {error}") from error
    return frozenset((*old, *(each.content for each in added)))


def _any_has_all(lines: tuple[tuple[str, ...], ...], text: str | frozenset[str]) -> bool:
    return any(all(mark in text for mark in line) for line in lines)
