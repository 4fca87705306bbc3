"""From a file that anybody may have sent to the frames of a video. Runs in the child of media.py only."""

import math
import os
from pathlib import Path

from actors.limited_child import UnreadableError
from actors.media_task import Picture, check_pixels

# Read by OpenCV when it is imported: nobody reads what it and FFmpeg say, and each thread takes addresses.
os.environ |= {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8", "OPENCV_FFMPEG_THREADS": "1"}

import cv2
from cv2.typing import MatLike

_MOST_SECONDS = 3600.0
# Of all frames together; what has more is reduced.
_ENOUGH_PIXELS = 16_000_000

# By its first bytes. FFmpeg reads much more, playlists among it, which lead to other files.
_FORMATS = "MP4, QuickTime, WebM, Matroska, AVI"

cv2.setNumThreads(1)


def decode_video(path: str, frames: int, most_pixels: int) -> list[Picture]:
    """Return frames from the middles of so many equal parts of the video; all where it has fewer.

    Raises `UnreadableError`.
    """
    with Path(path).open("rb") as file:
        head = file.read(12)
    if not (head[4:8] == b"ftyp" or head[:4] == b"\x1a\x45\xdf\xa3" or (head[:4], head[8:]) == (b"RIFF", b"AVI ")):
        raise UnreadableError(f"It is none of the formats that are read: {_FORMATS}.")
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise UnreadableError("It is broken, or not whole.")
        total = _checked(capture, most_pixels)
        wanted = sorted({int((number + 0.5) * total / frames) for number in range(frames)})
        return [_picture(_frame(capture, number), len(wanted)) for number in wanted]
    except cv2.error as error:
        raise UnreadableError("It is broken, or not whole.") from error
    finally:
        capture.release()


def _checked(capture: cv2.VideoCapture, most_pixels: int) -> int:
    """Return how many frames there are."""
    width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    check_pixels(int(width), int(height), most_pixels)
    total, per_second = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    if total < 1 or not per_second > 0:
        raise UnreadableError("It does not say how long it is.")
    if total / per_second > _MOST_SECONDS:
        raise UnreadableError(f"It is {total / per_second:.0f} s long; the limit is {_MOST_SECONDS:g} s.")
    return int(total)


def _frame(capture: cv2.VideoCapture, number: int) -> MatLike:
    if capture.get(cv2.CAP_PROP_POS_FRAMES) != number:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
    is_there, frame = capture.read()
    if not is_there:
        raise UnreadableError("It is broken, or not whole.")
    return frame


def _picture(frame: MatLike, count: int) -> Picture:
    height, width = frame.shape[:2]
    scale = math.sqrt(_ENOUGH_PIXELS / (count * height * width))
    if scale < 1:
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return Picture(height, width, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).tobytes())
