"""From a file that anybody may have sent to the frames of a video. Runs in the child of media.py only."""

import math
import os
from bisect import bisect
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

from actors.limited_child import UnreadableError
from actors.media_container import check_container
from actors.media_task import Picture, check_pixels

# Read by OpenCV when it is imported: nobody reads what it and FFmpeg say, and each thread takes addresses.
os.environ |= {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8", "OPENCV_FFMPEG_THREADS": "1"}

import cv2
from cv2.typing import MatLike

_MOST_SECONDS = 3600.0
# Of all frames together; what has more is reduced.
_ENOUGH_PIXELS = 16_000_000

_BROKEN = "It is broken, or has no video in a codec that is known here."

cv2.setNumThreads(1)


def decode_video(path: str, frames: int, most_pixels: int) -> list[Picture]:
    """Return frames from the middles of so many equal parts of the video; all where it has fewer.

    Raises `UnreadableError`.
    """
    check_container(path)
    try:
        with _opened(path, most_pixels) as capture:
            numbers = _middles(_told(capture), frames)
            pictures = [_picture(frame, len(numbers)) for frame in _sought(capture, numbers)]
        if not numbers or len(pictures) < len(numbers):
            # The head does not say how many frames there are, or it is wrong: the sound may be longer, the time between
            # frames may vary, and an editor may have left some out.
            numbers = _shown(_times(path, most_pixels), frames)
            pictures = [_picture(frame, len(numbers)) for frame in _passed(path, most_pixels, numbers)]
    except cv2.error as error:
        raise UnreadableError(_BROKEN) from error
    return pictures


@contextmanager
def _opened(path: str, most_pixels: int) -> Generator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise UnreadableError(_BROKEN)
        width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        check_pixels(int(width), int(height), most_pixels)
        yield capture
    finally:
        capture.release()


def _told(capture: cv2.VideoCapture) -> int:
    """Return how many frames there are by the head of the video, 0 if it does not say so."""
    total, per_second = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    if total < 1 or not per_second > 0:
        return 0
    _check_seconds(total / per_second)
    return int(total)


def _check_seconds(seconds: float) -> None:
    if seconds > _MOST_SECONDS:
        raise UnreadableError(f"It is {seconds:.0f} s long; the limit is {_MOST_SECONDS:g} s.")


def _middles(total: int, parts: int) -> list[int]:
    return sorted({int((number + 0.5) * total / parts) for number in range(parts)}) if total else []


def _sought(capture: cv2.VideoCapture, numbers: Sequence[int]) -> Iterator[MatLike]:
    """Yield these frames, up to the first that is not there."""
    for number in numbers:
        if capture.get(cv2.CAP_PROP_POS_FRAMES) != number:
            capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        is_there, frame = capture.read()
        if not is_there:
            return
        yield frame


def _times(path: str, most_pixels: int) -> list[float]:
    """Return when each frame is shown, in seconds, by decoding them all."""
    times: list[float] = []
    with _opened(path, most_pixels) as capture:
        while capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            _check_seconds(times[-1])
    if not times:
        raise UnreadableError(_BROKEN)
    return times


def _shown(times: Sequence[float], parts: int) -> list[int]:
    """Return the numbers of the frames that are shown in the middles of equal parts. The last stays for a mean time."""
    length = (times[-1] - times[0]) * len(times) / max(len(times) - 1, 1)
    middles = (times[0] + (number + 0.5) * length / parts for number in range(parts))
    return sorted({max(bisect(times, middle) - 1, 0) for middle in middles})


def _passed(path: str, most_pixels: int, numbers: Sequence[int]) -> Iterator[MatLike]:
    """Yield these frames, by decoding all before them."""
    with _opened(path, most_pixels) as capture:
        for number in range(numbers[-1] + 1):
            is_there = capture.grab()
            if number in numbers:
                is_there, frame = capture.retrieve()
                if not is_there:
                    raise UnreadableError(_BROKEN)
                yield frame


def _picture(frame: MatLike, count: int) -> Picture:
    height, width = frame.shape[:2]
    scale = math.sqrt(_ENOUGH_PIXELS / (count * height * width))
    if scale < 1:
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return Picture(height, width, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).tobytes())
