"""From a file that anybody may have sent to the RGB of an image. Runs in the child of media.py only."""

import math
import struct

# Registered by being imported; Pillow would import all of its forty at the first file that is none of these.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from actors.limited_child import UnreadableError
from actors.media_task import Picture, check_pixels

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# More than any model reads: what has more is reduced, while it is decoded if its format can do so.
_ENOUGH_PIXELS = 16_000_000

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error)

# The size is checked before anything is decoded, for a limit of our own.
Image.MAX_IMAGE_PIXELS = None


def decode_image(path: str, most_pixels: int) -> Picture:
    """Return the image, upright, of an animation the first; what is transparent shows white.

    Raises `UnreadableError`. Anything else that Pillow raises on a broken file ends the child.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            check_pixels(*image.size, most_pixels)
            picture = _rgb(_reduced(image))
    except UnidentifiedImageError as error:
        raise UnreadableError(f"It is none of the formats that are read: {', '.join(_FORMATS)}.") from error
    except _BROKEN as error:
        raise UnreadableError("It is broken, or not whole.") from error
    return Picture(picture.height, picture.width, picture.tobytes())


def _reduced(image: Image.Image) -> Image.Image:
    """Return the image upright and decoded, reduced if it has more pixels than enough."""
    scale = math.sqrt(_ENOUGH_PIXELS / (image.width * image.height))
    if scale < 1:
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image.draft(None, size)
        image = _eight_bits(image)
        image.thumbnail(size)
    return ImageOps.exif_transpose(_eight_bits(image))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the image with at most a byte per colour."""
    if image.mode.startswith("I;16"):
        # Pillow would cut off what is over 255.
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if image.mode in {"I", "F"}:
        raise UnreadableError(f"Its pixels are of Pillow's mode {image.mode}, whose range nobody knows.")
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(layer, mask=layer)
    return white
