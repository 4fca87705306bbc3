"""Reads the tokenizer of a model folder. Touches no mlx."""

from pathlib import Path

from tokenizers import Tokenizer

from actors.engines.folder import folder_refusal


def tokenizer_of(path: Path, *, marks_are_text: bool = False) -> Tokenizer:
    """Return the tokenizer of a folder, to which the marks of special tokens in a text may be text.

    Raises `RefusedError` if there is none.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        raise folder_refusal(path, f"has no {file.name}")
    tokenizer = Tokenizer.from_file(str(file))
    # The file may ask for a fixed length: MiniLM's pads and cuts everything to 128.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = marks_are_text
    return tokenizer
