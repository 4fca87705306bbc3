"""What the files of models say that read texts and pictures, and the sizes of what they see."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.engines.pictures_folder import PictureFolder, PixelSettings, read_picture_folder, reads_pictures
from actors.engines.pictures_pixels import patches, scaled, tokens_of
from actors.engines.profile import profile_for
from bus.errors import RefusedError
from tests.support.tiny_bert import write_json, write_tiny_bert
from tests.support.tiny_pictures import picture

TEXT = {"max_position_embeddings": 40000, "vocab_size": 9, "hidden_size": 8}
QWEN2: dict[str, Any] = {"model_type": "qwen2_vl", "vision_config": {}, **TEXT}
QWEN3: dict[str, Any] = {"model_type": "qwen3_vl", "vision_config": {}, "text_config": TEXT}
SIGLIP: dict[str, Any] = {"model_type": "siglip", "text_config": {}, "vision_config": {}}


def read(folder: Path, config: dict[str, Any], **files: Any) -> PictureFolder:
    for name, content in {"config": config, **files}.items():
        write_json(folder / f"{name}.json", content)
    return read_picture_folder(folder)


@pytest.mark.parametrize(
    ("config", "said", "sizes"),
    [
        # What every chat model of the family says is narrowed to what the embedding models were made for.
        (QWEN2, {"min_pixels": 3136, "max_pixels": 12845056}, (256 * 28**2, 1280 * 28**2)),
        (QWEN2, {"size": {"shortest_edge": 3136, "longest_edge": 12845056}}, (256 * 28**2, 1280 * 28**2)),
        (QWEN3, {"patch_size": 16, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}, (4096, 1800 * 32**2)),
        # What somebody has chosen stays.
        (QWEN2, {"min_pixels": 3136, "max_pixels": 100352}, (3136, 100352)),
        (QWEN2, {}, (4 * 28**2, 1280 * 28**2)),
    ],
)
@pytest.mark.parametrize("place", ["preprocessor_config", "processor_config"])
def test_sizes_of_pictures_are_those_that_the_model_was_made_for(
    tmp_path: Path, config: dict[str, Any], said: dict[str, Any], sizes: tuple[int, int], place: str
) -> None:
    settings = {"image_processor": said} if place == "processor_config" else said

    pixels = read(tmp_path, config, **{place: settings}).pixels

    assert (pixels.min_pixels, pixels.max_pixels) == sizes


def test_limits_prompts_and_colours_are_read(tmp_path: Path) -> None:
    sentences = {"prompts": {"query": "Find it."}, "default_prompt_name": "query"}
    folder = read(
        tmp_path,
        QWEN3,
        tokenizer_config={"model_max_length": 5000},
        config_sentence_transformers=sentences,
        preprocessor_config={"image_mean": [0.1, 0.2, 0.3]},
    )

    assert (folder.max_tokens, folder.instruction, folder.prompts) == (5000, "Find it.", {"query": "Find it."})
    assert (folder.pixels.mean, folder.pixels.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("said", "offered"),
    [({}, None), ({"is_matryoshka": True}, ()), ({"is_matryoshka": True, "matryoshka_dimensions": [4, 2]}, (4, 2))],
)
def test_lengths_that_vectors_are_made_for_are_read(
    tmp_path: Path, said: dict[str, Any], offered: tuple[int, ...] | None
) -> None:
    assert read(tmp_path, {**QWEN3, **said}).matryoshka_dimensions == offered


@pytest.mark.parametrize(
    ("config", "files", "why"),
    [
        ({"model_type": "clip"}, {}, "is of family clip, not one of qwen2_vl, qwen3_vl, siglip"),
        ({**QWEN2, "vocab_size": None}, {}, "does not say its vocab_size"),
        (QWEN2, {"preprocessor_config": {"min_pixels": 9, "max_pixels": 8}}, "wants pictures of 9 to 8 pixels"),
        (QWEN2, {"preprocessor_config": {"image_std": [1, 2]}}, "has an image_std that is not three numbers"),
        (SIGLIP, {"preprocessor_config": {"size": {"height": 384, "width": 384}}}, "sees 224 × 224 pixels"),
    ],
)
def test_folders_that_cannot_be_served_are_refused(
    tmp_path: Path, config: dict[str, Any], files: dict[str, Any], why: str
) -> None:
    with pytest.raises(RefusedError, match=why):
        read(tmp_path, config, **files)


def test_other_folders_are_left_to_others(tmp_path: Path) -> None:
    assert not reads_pictures(write_tiny_bert(tmp_path / "bert"))
    assert not reads_pictures(tmp_path / "nothing")


SETTINGS = PixelSettings(mean=(0.5,) * 3, std=(0.5,) * 3, resample=3, patch=4, merge=2, min_pixels=256, max_pixels=4096)


# As `smart_resize` of transformers has it.
@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((32, 24), (32, 24)),
        ((35, 21), (32, 24)),
        ((150, 100), (72, 48)),
        ((5, 7), (16, 24)),
        ((9, 300), (8, 304)),
        ((1, 1), (16, 16)),
        ((400, 400), (64, 64)),
    ],
)
def test_pictures_are_brought_to_whole_tokens_within_the_limits(size: tuple[int, int], seen: tuple[int, int]) -> None:
    image = scaled(picture(*size), SETTINGS, "input[0]")

    assert image.shape == (*seen, 3)
    assert tokens_of(image, SETTINGS) == seen[0] * seen[1] // 64


def test_patches_lie_token_by_token() -> None:
    # The number of its patch is the colour of each pixel: 4 × 6 patches, of which 2 × 2 are a token.
    numbers = np.arange(24, dtype=np.uint8).reshape(4, 6)
    image = np.repeat(np.repeat(numbers, 4, axis=0), 4, axis=1)[..., None].repeat(3, axis=2)

    cut, grids = patches([image, image[:8, :8]], SETTINGS)

    first = np.rint((cut[:, 0] + 1) * 127.5).astype(int).tolist()
    assert first[:8] == [0, 1, 6, 7, 2, 3, 8, 9]
    assert first[24:] == [0, 1, 6, 7]
    assert (cut.shape, grids.tolist()) == ((28, 3 * 2 * 4 * 4), [[1, 4, 6], [1, 2, 2]])


@pytest.mark.parametrize(
    ("is_cpu", "gigabytes", "name", "batch_tokens"),
    [(True, 64, "cpu", 256), (False, 16, "metal-16gb", 4096), (False, 32, "metal-32gb", 8192)],
)
def test_profile_follows_device_and_memory(is_cpu: bool, gigabytes: int, name: str, batch_tokens: int) -> None:
    found = profile_for(is_cpu, gigabytes * 2**30, cores=8)

    assert (found.name, found.batch_tokens) == (name, batch_tokens)


@pytest.mark.parametrize(("cores", "streams"), [(1, 1), (2, 2), (3, 2), (4, 2), (8, 4), (64, 8)])
def test_profile_uses_half_the_cores_and_one_gpu(cores: int, streams: int) -> None:
    assert profile_for(True, 2**30, cores).streams == streams
    assert profile_for(False, 2**30, cores).streams == 1


@pytest.mark.parametrize("config", [QWEN2, SIGLIP])
def test_weights_packed_otherwise_than_by_mlx_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="is quantised in a way"):
        read(tmp_path, config | {"quantization_config": {"quant_method": "fp8"}})
