"""What is said between media.py and its child: a line of JSON each way, and after a good reply the pixels."""

from typing import Literal

from msgspec import Struct

Medium = Literal["image", "video"]


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


class Reply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The (height, width) of each picture, whose RGB follows in this order, or what is wrong with the file."""

    sizes: tuple[tuple[int, int], ...] = ()
    error: str = ""

    @property
    def pixel_bytes(self) -> int:
        """How many bytes follow."""
        return 3 * sum(height * width for height, width in self.sizes)


class Picture(Struct, frozen=True):
    """RGB of `height` rows, one byte per colour."""

    height: int
    width: int
    pixels: bytes


class UnreadableError(Exception):
    """The file cannot be decoded, or may not be; the message says why in a sentence."""


def check_pixels(width: int, height: int, most: int) -> None:
    """Raise `UnreadableError` when a picture of this size has too many pixels, or none."""
    if width < 1 or height < 1:
        raise UnreadableError("It has no pixels.")
    if width * height > most:
        raise UnreadableError(f"It has {width} × {height} pixels; the limit is {most} in all.")
