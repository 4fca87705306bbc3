"""Videos as cameras, browsers and editors leave them: their heads say less, or more, than there is."""

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from actors.limited_child import UnreadableError
from actors.media_video import decode_video
from tests.support.pictures import video

LEVELS = list(range(0, 240, 8))
MIDDLES = [LEVELS[3], LEVELS[11], LEVELS[18], LEVELS[26]]
DURATION = b"\x44\x89\x88"  # Matroska's, before eight bytes of it.
SEGMENT = b"\x18\x53\x80\x67"  # Before eight bytes of its size.


def matroska() -> bytes:
    return video(LEVELS, name="mkv")


def avi() -> bytes:
    return video(LEVELS, name="avi")


def with_duration(milliseconds: float) -> bytes:
    """Return a video whose head says how long its sound is, or that is not as fast all the time."""
    head, _, rest = matroska().partition(DURATION)
    return head + DURATION + struct.pack(">d", milliseconds) + rest[8:]


def slower_at_the_end() -> bytes:
    """Return a video of 12 seconds, of which 20 frames are shown in the first two and 10 in the others."""
    content, at = bytearray(with_duration(12_000)), 0
    for number in range(len(LEVELS)):
        at = content.index(b"\x81" + struct.pack(">h", 100 * number), at) + 1
        struct.pack_into(">h", content, at, 100 * number + 900 * max(0, number - 20))
    return bytes(content)


def live() -> bytes:
    """Return what a browser records: nobody has gone back to its head to say how long it is."""
    head, _, rest = matroska().partition(DURATION)
    void = b"\xec\x89"  # as many bytes without a meaning
    unnamed = head + void + bytes(1) + rest
    before, _, after = unnamed.partition(SEGMENT)
    return before + SEGMENT + b"\x01" + b"\xff" * 7 + after[8:]


def shortened(milliseconds: int) -> bytes:
    """Return a video of which an editor shows less than is there."""
    content = bytearray(video(LEVELS))
    at = content.index(b"elst") + 12
    content[at : at + 4] = struct.pack(">I", milliseconds)
    return bytes(content)


def index_first() -> bytes:
    """Return a video that can be shown while it is loaded: `moov` stands before `mdat`."""
    content = video(LEVELS)
    media, index = content.index(b"mdat") - 4, content.index(b"moov") - 4
    moov = bytearray(content[index:])
    at = moov.index(b"stco") + 12
    (start,) = struct.unpack_from(">I", moov, at)
    struct.pack_into(">I", moov, at, start + len(moov))
    return content[:media] + bytes(moov) + content[media:index]


def greys(folder: Path, content: bytes, frames: int = 4) -> list[int]:
    path = folder / "video"
    path.write_bytes(content)
    return [round(np.frombuffer(each.pixels, np.uint8).mean()) for each in decode_video(str(path), frames, 10**6)]


@pytest.mark.parametrize(
    "made",
    [matroska, avi, partial(with_duration, 30_000), live, index_first],
    ids=["matroska", "avi", "longer sound", "live", "index first"],
)
def test_frames_are_those_that_are_there_whatever_the_head_says(tmp_path: Path, made: Callable[[], bytes]) -> None:
    content = made()

    assert greys(tmp_path, content) == pytest.approx(MIDDLES, abs=6)
    assert greys(tmp_path, content, frames=64) == pytest.approx(LEVELS, abs=6)


def test_parts_of_a_video_are_equal_in_time(tmp_path: Path) -> None:
    made = greys(tmp_path, slower_at_the_end())

    assert made == pytest.approx([LEVELS[14], LEVELS[22], LEVELS[25], LEVELS[27]], abs=4)


def test_part_that_an_editor_has_left_is_the_video(tmp_path: Path) -> None:
    assert greys(tmp_path, shortened(1500), frames=64) == pytest.approx(LEVELS[:15], abs=6)


@pytest.mark.parametrize("made", [matroska, avi, index_first])
def test_video_that_is_cut_off_is_refused_also_if_its_beginning_can_be_shown(
    tmp_path: Path, made: Callable[[], bytes]
) -> None:
    content = made()

    with pytest.raises(UnreadableError, match="not whole"):
        greys(tmp_path, content[: len(content) * 3 // 4], frames=1)


def test_video_of_ten_hours_is_refused_by_its_head(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="36000 s long; the limit is 3600 s"):
        greys(tmp_path, with_duration(36_000_000))


def test_codec_that_is_not_known_is_told(tmp_path: Path) -> None:
    unknown = avi().replace(b"FMP4", b"ZZZZ").replace(b"mp4v", b"ZZZZ")

    with pytest.raises(UnreadableError, match="no video in a codec that is known"):
        greys(tmp_path, unknown)
