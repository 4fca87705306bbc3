"""What media.py tells its processes to do, and gets from them: RGB of each picture, one behind the other."""

from typing import Literal

from msgspec import Struct

from actors.limited_child import UnreadableError

Medium = Literal["image", "video"]
# The (height, width) of each picture.
Sizes = tuple[tuple[int, int], ...]


class Task(Struct, frozen=True, kw_only=True):
    """Decode the file at `path`, of a video `frames` frames.

    Not if it has more than `most_bytes`, or a picture more than `most_pixels`. `seconds` is how long the processor may
    work at it.
    """

    medium: Medium
    path: str
    frames: int
    most_bytes: int
    most_pixels: int
    seconds: float


class Picture(Struct, frozen=True):
    """RGB of `height` rows, one byte per colour."""

    height: int
    width: int
    pixels: bytes


def check_pixels(width: int, height: int, most: int) -> None:
    """Raise `UnreadableError` when a picture of this size has too many pixels, or none."""
    if width < 1 or height < 1:
        raise UnreadableError("It has no pixels.")
    if width * height > most:
        raise UnreadableError(f"It has {width} × {height} pixels; the limit is {most} in all.")
