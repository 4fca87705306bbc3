from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actors.limited_child import UnreadableError
from actors.media_image import decode_image
from actors.media_task import Picture
from tests.support.pictures import Pixels, encoded, gif, pixels, png

MOST = 64_000_000


def decoded(folder: Path, content: bytes, most: int = MOST) -> Pixels:
    path = folder / "image"
    path.write_bytes(content)
    picture: Picture = decode_image(str(path), most)
    return np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, 3)


@pytest.mark.parametrize("name", ["PNG", "BMP", "TIFF", "GIF"])
def test_pixels_are_those_that_were_saved(tmp_path: Path, name: str) -> None:
    seen = pixels()
    image = Image.fromarray(seen)

    made = decoded(tmp_path, encoded(image.quantize() if name == "GIF" else image, name))

    assert (made == (np.asarray(image.quantize().convert("RGB")) if name == "GIF" else seen)).all()


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("L", (2, 2), 9), (9, 9, 9)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), (255, 204, 204)),
        (Image.fromarray(np.full((2, 2), 257 * 7, np.uint16)), (7, 7, 7)),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), (255, 255, 255)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb_on_white(
    tmp_path: Path, image: Image.Image, colour: tuple[int, int, int]
) -> None:
    made = decoded(tmp_path, encoded(image))

    assert (made == np.full((2, 2, 3), colour)).all()


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    made = decoded(tmp_path, encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))

    assert np.abs(made.astype(int) - (255, 0, 0)).max() <= 4


def test_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 3)
    image.putpalette([0, 0, 0] * 3 + [10, 20, 30])

    assert (decoded(tmp_path, encoded(image)) == (10, 20, 30)).all()
    assert (decoded(tmp_path, encoded(image, transparency=3)) == (255, 255, 255)).all()


def test_image_is_turned_as_its_camera_was_held(tmp_path: Path) -> None:
    seen = pixels(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise

    made = decoded(tmp_path, encoded(Image.fromarray(seen), exif=exif))

    assert (made == np.rot90(seen, -1)).all()


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP"])
def test_first_frame_of_an_animation_is_the_image(tmp_path: Path, name: str) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    content = encoded(red, name, save_all=True, append_images=[blue], **({"lossless": True} if name == "WEBP" else {}))

    assert (decoded(tmp_path, content) == (255, 0, 0)).all()


def test_animation_of_many_frames_is_no_more_work_than_one(tmp_path: Path) -> None:
    assert (decoded(tmp_path, gif(10_000)) == (255, 0, 0)).all()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 20_000), (20_000, 1)])
def test_odd_shapes_stay_as_they_are(tmp_path: Path, width: int, height: int) -> None:
    seen = pixels(height, width)

    assert (decoded(tmp_path, png(seen)) == seen).all()


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_image_that_no_model_reads_in_full_is_reduced(tmp_path: Path, name: str) -> None:
    content = encoded(Image.new("RGB", (5800, 2900), "red"), name)

    made = decoded(tmp_path, content)

    height, width = made.shape[:2]
    assert 14_000_000 < height * width <= 16_000_000
    assert width == pytest.approx(2 * height, abs=2)
    assert np.abs(made[::99, ::99].astype(int) - (255, 0, 0)).max() <= 2


def test_size_is_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    content = png(pixels(10, 10))[:60]

    with pytest.raises(UnreadableError, match="10 × 10 pixels; the limit is 99 in all"):
        decoded(tmp_path, content, most=99)
    with pytest.raises(UnreadableError, match="not whole"):
        decoded(tmp_path, content, most=100)
