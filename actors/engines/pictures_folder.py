"""Reads the folder of an embedding model that reads texts and pictures: Qwen2-VL, Qwen3-VL or SigLIP.

Touches no mlx. What the makers of such models say only in code of their own, which is not run, stands here.
"""

import re
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct

from actors.conversion import folder_name
from actors.engines.folder import family_of, folder_refusal, needed, packing_in
from actors.model_config import ModelConfig
from actors.model_files import read_json

Family = Literal["qwen2_vl", "qwen3_vl", "siglip"]
FAMILIES: Final[tuple[Family, ...]] = ("qwen2_vl", "qwen3_vl", "siglip")

Colours = tuple[float, float, float]
_CLIP_MEAN: Final[Colours] = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Final[Colours] = (0.26862954, 0.26130258, 0.27577711)
_HALF: Final[Colours] = (0.5, 0.5, 0.5)

# The sizes that every chat model of the family allows. Folders of embedding models repeat them, while the code
# of their makers narrows them to the sizes after the colon: 256 to 1280 tokens, or 4 to 1800.
_NARROWED: Final = {
    ("qwen2_vl", 56 * 56, 16384 * 28 * 28): (256 * 28 * 28, 1280 * 28 * 28),
    ("qwen3_vl", 256 * 256, 4096 * 4096): (4 * 32 * 32, 1800 * 32 * 32),
}
# Qwen3-VL itself reads more, its embedding models were made for this.
_MOST_TOKENS: Final = 32768


class PixelSettings(Struct, frozen=True, kw_only=True):
    """What becomes of a picture before the model sees it.

    With `height` and `width` each is brought to that size, without to one of whole tokens between `min_pixels` and
    `max_pixels`. `resample` is a number of Pillow's. A token is a square of `merge` × `merge` patches.
    """

    mean: Colours
    std: Colours
    resample: int
    patch: int
    merge: int = 1
    min_pixels: int = 0
    max_pixels: int = 0
    height: int = 0
    width: int = 0


class PictureFolder(Struct, frozen=True, kw_only=True):
    """What the files say about turning texts and pictures into vectors.

    `show` and `seen` are the tokens of a Qwen model that begin a picture and stand for its tokens, by config.json.
    `instruction` is what it is told to do; `prompts` are those that have a name. The positions of its tokens
    are plain if pictures count like text. `pad` is the token that a SigLIP model's texts end in.
    `matryoshka_dimensions` are what vectors may be cut to: empty for anything, None for nothing.
    """

    path: Path
    family: Family
    max_tokens: int
    vocabulary_size: int
    dimensions: int
    pixels: PixelSettings
    pad: str = ""
    show: int = 0
    seen: int = 0
    instruction: str = ""
    prompts: dict[str, str] = {}
    has_plain_positions: bool = False
    matryoshka_dimensions: tuple[int, ...] | None = None
    quantisation: dict[str, Any] | None = None


def reads_pictures(path: Path) -> bool:
    """Say whether the folder is of one of these families. Raises `ModelFilesError` for a damaged config.json."""
    return family_of(read_json(path / "config.json")) in FAMILIES


def words_of(name: str) -> list[str]:
    """Return the words of a name, in lower case."""
    return re.split(r"[^a-z0-9]+", name.lower())


def read_picture_folder(path: Path) -> PictureFolder:
    """Return what the folder `path` declares.

    Raises `RefusedError` if it does not say what it must, and `ModelFilesError` for files that cannot be read.
    """
    said = read_json(path / "config.json")
    family = family_of(said)
    for known in FAMILIES:
        if known == family:
            return _siglip(path, said) if known == "siglip" else _qwen(path, known, said)
    raise folder_refusal(path, f"is of family {family or 'unknown'}, not one of {', '.join(FAMILIES)}")


def qwen_settings(said: dict[str, Any]) -> dict[str, Any]:
    """Return config.json as the library reads it: transformers has moved and renamed some of it over time."""
    text = {**said, **said.get("text_config", {})}
    if isinstance(rope := text.get("rope_parameters"), dict):
        text |= {"rope_theta": rope["rope_theta"], "rope_scaling": {**rope, "type": "default"}}
    family = family_of(said)
    vision = {**said["vision_config"], "model_type": family}
    return {**said, "text_config": {**text, "model_type": family}, "vision_config": vision}


def _qwen(path: Path, family: Family, said: dict[str, Any]) -> PictureFolder:
    config = ModelConfig(said)
    text = config.language
    sentences = ModelConfig(read_json(path / "config_sentence_transformers.json"))
    prompts = {name: sentences.part("prompts").text(name) for name in sentences.part("prompts").names}
    default = prompts.get(sentences.text("default_prompt_name"))
    is_second = family == "qwen2_vl"
    return PictureFolder(
        path=path,
        family=family,
        max_tokens=min(needed(path, text, "max_position_embeddings"), _declared(path), _MOST_TOKENS),
        vocabulary_size=needed(path, text, "vocab_size"),
        dimensions=needed(path, text, "hidden_size"),
        pixels=_qwen_pixels(path, family, config),
        show=config.number("vision_start_token_id") or 151652,
        seen=config.number("image_token_id", "image_token_index") or 151655,
        instruction=default or ("You are a helpful assistant." if is_second else "Represent the user's input."),
        prompts=prompts,
        has_plain_positions="gme" in words_of(folder_name(path)),
        matryoshka_dimensions=_matryoshka(said),
        quantisation=packing_in(path, said),
    )


def _matryoshka(said: dict[str, Any]) -> tuple[int, ...] | None:
    """Return what is said as vLLM reads it."""
    lengths = said.get("matryoshka_dimensions")
    if isinstance(lengths, list) and all(isinstance(length, int) for length in lengths) and lengths:
        return tuple(lengths)
    return () if said.get("is_matryoshka") is True else None


def _qwen_pixels(path: Path, family: Family, config: ModelConfig) -> PixelSettings:
    said = _preprocessor(path)
    vision = config.part("vision_config")
    patch = said.number("patch_size") or vision.number("patch_size") or (14 if family == "qwen2_vl" else 16)
    merge = said.number("merge_size") or vision.number("spatial_merge_size") or 2
    size, token = said.part("size"), (patch * merge) ** 2
    least = said.number("min_pixels") or size.number("shortest_edge") or 4 * token
    most = said.number("max_pixels") or size.number("longest_edge") or 1280 * token
    least, most = _NARROWED.get((family, least, most), (least, most))
    if least > most or most < token:
        raise folder_refusal(path, f"wants pictures of {least} to {most} pixels")
    mean, std = (_CLIP_MEAN, _CLIP_STD) if family == "qwen2_vl" else (_HALF, _HALF)
    return PixelSettings(
        mean=_colours(path, "image_mean", mean),
        std=_colours(path, "image_std", std),
        resample=said.number("resample") or 3,
        patch=patch,
        merge=merge,
        min_pixels=least,
        max_pixels=most,
    )


def _siglip(path: Path, said: dict[str, Any]) -> PictureFolder:
    config = ModelConfig(said)
    text, vision = config.part("text_config"), config.part("vision_config")
    pictures = _preprocessor(path)
    tokenizer = ModelConfig(read_json(path / "tokenizer_config.json"))
    side = vision.number("image_size") or 224
    size = pictures.part("size")
    height, width = size.number("height") or side, size.number("width") or side
    if (height, width) != (side, side):
        raise folder_refusal(path, f"sees {side} × {side} pixels, but its pictures are made {height} × {width}")
    return PictureFolder(
        path=path,
        family="siglip",
        max_tokens=text.number("max_position_embeddings") or 64,
        vocabulary_size=text.number("vocab_size") or 32000,
        dimensions=text.number("projection_size", "hidden_size") or 768,
        pixels=PixelSettings(
            mean=_colours(path, "image_mean", _HALF),
            std=_colours(path, "image_std", _HALF),
            resample=pictures.number("resample") or 3,
            patch=vision.number("patch_size") or 16,
            height=height,
            width=width,
        ),
        pad=tokenizer.text("pad_token") or tokenizer.part("pad_token").text("content") or "</s>",
        quantisation=packing_in(path, said),
    )


def _preprocessor(path: Path) -> ModelConfig:
    """Return the settings for pictures: newer folders keep them in a part of another file."""
    newer = ModelConfig(read_json(path / "processor_config.json")).part("image_processor")
    return newer if newer.names else ModelConfig(read_json(path / "preprocessor_config.json"))


def _colours(path: Path, name: str, default: Colours) -> Colours:
    newer = read_json(path / "processor_config.json").get("image_processor")
    said = newer if isinstance(newer, dict) and newer else read_json(path / "preprocessor_config.json")
    try:
        red, green, blue = map(float, said.get(name, default))
    except (TypeError, ValueError) as error:
        raise folder_refusal(path, f"has an {name} that is not three numbers") from error
    return red, green, blue


def _declared(path: Path) -> int:
    tokenizer = ModelConfig(read_json(path / "tokenizer_config.json"))
    sentences = ModelConfig(read_json(path / "sentence_bert_config.json"))
    said = (sentences.number("max_seq_length"), tokenizer.number("model_max_length"))
    return min((limit for limit in said if limit is not None), default=_MOST_TOKENS)
