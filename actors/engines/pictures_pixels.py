"""Brings pictures to the size that a model sees, and cuts them into patches. Touches no mlx.

Does what the image processors of transformers do. Those take 2 seconds to import, and keep every picture that waits as
two frames of float32, which is eight times as large.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from actors.engines.pictures_folder import PixelSettings
from bus.errors import RefusedError

Pixels = NDArray[np.uint8]

_MOST_RATIO: Final = 200
_FRAMES: Final = 2  # An image is a film of two equal frames to Qwen's models.


def scaled(picture: Pixels, settings: PixelSettings, param: str) -> Pixels:
    """Return the RGB `picture`, height × width × 3, in the size that the model sees.

    Raises `RefusedError` that names `param` for one that is too narrow.
    """
    height, width = picture.shape[:2]
    if settings.height:
        size = settings.height, settings.width
    elif max(height, width) > _MOST_RATIO * min(height, width):
        raise RefusedError(
            "invalid_request",
            f"A picture has {width} × {height} pixels; one side may be {_MOST_RATIO} times as long as the other.",
            param=param,
        )
    else:
        size = _fitting(height, width, settings)
    if size == (height, width):
        return picture
    image = Image.fromarray(picture).resize(size[::-1], Image.Resampling(settings.resample))
    return np.asarray(image)


def tokens_of(picture: Pixels, settings: PixelSettings) -> int:
    """Return how many tokens a picture is that has its size already."""
    height, width, _ = picture.shape
    side = settings.patch * settings.merge
    return int((height // side) * (width // side))


def normalised(picture: Pixels, settings: PixelSettings) -> NDArray[np.float32]:
    """Return the colours as the model was trained on them, around 0."""
    scaled_colours = picture.astype(np.float32) * np.float32(1 / 255)
    mean, std = np.array(settings.mean, np.float32), np.array(settings.std, np.float32)
    return np.asarray((scaled_colours - mean) / std, np.float32)


def patches(pictures: Sequence[Pixels], settings: PixelSettings) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the patches of all pictures one after the other, and (frames, rows, columns) of patches of each picture.

    The order within a picture is that of Qwen's models: token by token, the patches of one token together.
    """
    cut = [_patches(normalised(picture, settings), settings) for picture in pictures]
    grids = [(1, picture.shape[0] // settings.patch, picture.shape[1] // settings.patch) for picture in pictures]
    return np.concatenate(cut), np.array(grids, np.int64)


def _patches(picture: NDArray[np.float32], settings: PixelSettings) -> NDArray[np.float32]:
    patch, merge = settings.patch, settings.merge
    rows, columns = picture.shape[0] // (patch * merge), picture.shape[1] // (patch * merge)
    squares = picture.reshape(rows, merge, patch, columns, merge, patch, 3)
    # Token row, token column, row and column of the patch in its token, colour, frame, row and column of the pixel.
    ordered = np.repeat(squares.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None], _FRAMES, axis=5)
    return ordered.reshape(rows * columns * merge * merge, 3 * _FRAMES * patch * patch)


def _fitting(height: int, width: int, settings: PixelSettings) -> tuple[int, int]:
    """Return the size nearest to the picture's that is of whole tokens and within the limits, as `smart_resize` does.

    Source: transformers, models/qwen2_vl/image_processing_qwen2_vl.py.
    """
    side = settings.patch * settings.merge
    rows, columns = max(side, round(height / side) * side), max(side, round(width / side) * side)
    if rows * columns > settings.max_pixels:
        shrink = math.sqrt(height * width / settings.max_pixels)
        return _floor(height / shrink, side), _floor(width / shrink, side)
    if rows * columns < settings.min_pixels:
        grow = math.sqrt(settings.min_pixels / (height * width))
        return math.ceil(height * grow / side) * side, math.ceil(width * grow / side) * side
    return rows, columns


def _floor(length: float, side: int) -> int:
    return max(side, math.floor(length / side) * side)
