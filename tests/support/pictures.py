"""Images and videos as clients send them, whole and hostile."""

import base64
import io
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def pixels(height: int = 6, width: int = 8, seed: int = 0) -> Pixels:
    """Return RGB of random colours."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: Image.Image, name: str = "PNG", **options: Any) -> bytes:
    """Return the image as a file of that format."""
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def png(content: Pixels) -> bytes:
    """Return a PNG."""
    return encoded(Image.fromarray(content))


def data_url(content: bytes, kind: str = "image/png") -> str:
    """Return a `data:` URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def bomb(width: int, height: int, rows: int | None = None) -> bytes:
    """Return a PNG of black pixels, a thousandth of their size; only `rows` of them are there, unless all."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    line = bytes(1 + 3 * width)
    packed = b"".join(packer.compress(line) for _ in range(height if rows is None else rows)) + packer.flush()
    parts = ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def gif(frames: int) -> bytes:
    """Return an animation whose first frame is red; each other one sets one pixel."""
    other = b"\x21\xf9\x04\0\0\0\0\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    return encoded(Image.new("RGB", (8, 8), "red"), "GIF").removesuffix(b";") + other * (frames - 1) + b";"


def video(levels: list[int], size: tuple[int, int] = (32, 24), name: str = "mp4", codec: str = "mp4v") -> bytes:
    """Return a video at 10 frames per second; each frame is one level of grey."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"video.{name}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, size)
        assert writer.isOpened()
        for level in levels:
            writer.write(np.full((size[1], size[0], 3), level, np.uint8))
        writer.release()
        return path.read_bytes()
