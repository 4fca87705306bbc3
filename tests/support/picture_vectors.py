"""What transformers and torch make of the tiny models of tiny_pictures.py: `picture_vectors.json`.

The file was made once, in an environment of its own, with transformers 5.23.0, torch 2.13.0 and pillow 12.3.0:

    python -m tests.support.picture_vectors
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.tiny_pictures import FAMILIES, SIGLIP_TOKENS, picture

FILE = Path(__file__).with_name("picture_vectors.json")

# A picture that keeps its size, one that is made smaller, one that is made larger, and one that is very wide.
SIZES = {"kept": (32, 24), "smaller": (150, 100), "larger": (5, 7), "wide": (9, 300)}
PICTURES = {name: picture(*size, seed=number) for number, (name, size) in enumerate(SIZES.items())}
TEXTS = {
    "one": "A bird sings",
    "words": "The licence, in so many words, says: do what you want.",
    "spaces": "\n\n  two lines, indented\n\n",
}
# The text and the pictures of each case.
CASES: Mapping[str, tuple[str | None, tuple[str, ...]]] = {
    **{name: (name, ()) for name in TEXTS},
    **{name: (None, (name,)) for name in PICTURES},
    "text and picture": ("words", ("smaller",)),
    "text and two pictures": ("one", ("kept", "larger")),
}


def expected(family: str) -> dict[str, NDArray[np.float32]]:
    """Return the vectors of the cases that the tiny model of `family` reads; "gme" is Qwen2-VL with plain positions."""
    known = json.loads(FILE.read_text())[family]
    return {name: np.array(vector, np.float32) for name, vector in known.items()}


def main() -> None:
    """Write the file."""
    known: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for family, write in FAMILIES.items():
            folder = write(Path(temporary, family))
            makers = {"siglip": _siglip, "qwen2_vl": _qwen2, "qwen3_vl": _qwen3}
            known[family] = makers[family](folder)
        known["gme"] = _qwen2(Path(temporary, "qwen2_vl"), has_plain_positions=True)
    FILE.write_text(json.dumps(known) + "\n")


def _qwen2(folder: Path, *, has_plain_positions: bool = False) -> dict[str, list[float]]:
    """As Ops-MM-embedding's own class does it, or as that of GME: with the positions of a text without pictures."""

    def prompt(text: str, pictures: int) -> str:
        seen = "<|vision_start|><|image_pad|><|vision_end|>" * pictures
        system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        return f"{system}<|im_start|>user\n{seen}{text}<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"

    return _qwen(folder, "Qwen2VL", prompt, has_plain_positions)


def _qwen3(folder: Path) -> dict[str, list[float]]:
    """As Qwen3-VL-Embedding's own script does it."""

    def prompt(text: str, pictures: int) -> str:
        seen = "<|vision_start|><|image_pad|><|vision_end|>" * pictures
        system = "<|im_start|>system\nRepresent the user's input.<|im_end|>\n"
        return f"{system}<|im_start|>user\n{seen}{text}<|im_end|>\n<|im_start|>assistant\n"

    return _qwen(folder, "Qwen3VL", prompt, has_plain_positions=False)


def _qwen(folder: Path, name: str, prompt: Any, has_plain_positions: bool) -> dict[str, list[float]]:
    torch = import_module("torch")
    transformers = import_module("transformers")
    model = getattr(transformers, f"{name}ForConditionalGeneration").from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    images = import_module("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    see = images.Qwen2VLImageProcessorPil.from_pretrained(folder)
    found = {}
    for case, (text, pictures) in CASES.items():
        inputs: dict[str, Any] = {}
        words = prompt(TEXTS.get(text or "", ""), len(pictures))
        if pictures:
            inputs = dict(see(images=[PICTURES[name] for name in pictures], return_tensors="pt"))
            for grid in inputs["image_grid_thw"]:
                words = words.replace("<|image_pad|>", "<seen>" * (int(grid.prod()) // 4), 1)
            words = words.replace("<seen>", "<|image_pad|>")
        ids = tokenizer(words, return_tensors="pt")["input_ids"]
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        if has_plain_positions:
            inputs["position_ids"] = torch.arange(ids.shape[1]).expand(3, 1, -1)
        with torch.inference_mode():
            states = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).last_hidden_state
        found[case] = _unit(states[0, -1].numpy())
    return found


def _siglip(folder: Path) -> dict[str, list[float]]:
    torch = import_module("torch")
    transformers = import_module("transformers")
    model = transformers.SiglipModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="</s>")
    images = import_module("transformers.models.siglip.image_processing_pil_siglip")
    see = images.SiglipImageProcessorPil.from_pretrained(folder)
    found = {}
    with torch.inference_mode():
        for name, text in TEXTS.items():
            said = tokenizer(text, padding="max_length", truncation=True, max_length=SIGLIP_TOKENS, return_tensors="pt")
            found[name] = _unit(_pooled(model.get_text_features(input_ids=said["input_ids"])))
        for name, image in PICTURES.items():
            seen = see(images=[image], return_tensors="pt")
            found[name] = _unit(_pooled(model.get_image_features(**seen)))
    return found


def _pooled(features: Any) -> Sequence[float]:
    return getattr(features, "pooler_output", features)[0].numpy()  # type: ignore[no-any-return]  # torch's


def _unit(vector: Any) -> list[float]:
    return [round(float(number), 7) for number in vector / np.linalg.norm(vector)]


if __name__ == "__main__":
    main()
