"""Says whether the file of a video is as long as its container says. Runs in the child of media.py only.

FFmpeg shows what is there of one that was cut off, and says nothing.
"""

from pathlib import Path
from typing import BinaryIO

from actors.limited_child import UnreadableError

# By its first bytes. FFmpeg reads much more, playlists among it, which lead to other files.
_FORMATS = "MP4, QuickTime, WebM, Matroska, AVI"
_MATROSKA = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"


def check_container(path: str) -> None:
    """Raise `UnreadableError` for a file that is no video, or that was cut off."""
    there = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        head = file.read(256)
        if head[4:8] == b"ftyp":
            end = _end_of_boxes(file, there)
        elif head.startswith(_MATROSKA):
            end = _end_of_segment(head)
        elif (head[:4], head[8:12]) == (b"RIFF", b"AVI "):
            end = 8 + int.from_bytes(head[4:8], "little")
        else:
            raise UnreadableError(f"It is none of the formats that are read: {_FORMATS}.")
    if end > there:
        raise UnreadableError("It is broken, or not whole.")


def _end_of_boxes(file: BinaryIO, there: int) -> int:
    """Return where the last box with media ends. Cameras write behind it what is no box.

    Source: ISO/IEC 14496-12, 4.2.
    """
    start = end = 0
    while start < there:
        file.seek(start)
        head = file.read(16)
        size = int.from_bytes(head[:4])
        if size == 1:
            size = int.from_bytes(head[8:])
        if size < 8:  # 0 reaches to the end of the file.
            break
        start += size
        if head[4:8] in {b"moov", b"mdat", b"moof"}:
            end = start
    return end


def _end_of_segment(head: bytes) -> int:
    """Return where the part with the media ends, 0 if that is not said, as in what a browser records.

    Source: RFC 8794, section 4; RFC 9559, section 5.1.
    """
    size, start = _number(head, len(_MATROSKA))
    start += size
    if head[start : start + len(_SEGMENT)] != _SEGMENT:
        return 0
    size, start = _number(head, start + len(_SEGMENT))
    return start + size if size else 0


def _number(head: bytes, at: int) -> tuple[int, int]:
    """Return the number that stands at `at`, and where it ends. Zero bits before its first one say how long it is.

    All ones stand for an unknown number, which is returned as 0.
    """
    length = 9 - int.from_bytes(head[at : at + 1]).bit_length()
    most = (1 << 7 * length) - 1
    number = int.from_bytes(head[at : at + length]) & most
    return (0 if number == most else number), at + length
