"""What the models that read pictures are given, and what an input of a request consists of. Touches no mlx."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

import numpy as np
from msgspec import Struct

from actors.engines.contents import pictures_among
from actors.engines.engine import Pictures
from actors.engines.pictures_pixels import Pixels
from bus.errors import RefusedError
from bus.messages.embeddings import EmbedInput, EmbedRequest, FramePooling, ImagePart, TextPart, VideoPart


class Row(Struct, frozen=True, kw_only=True):
    """One forward: the token ids, and the pictures in the size that the model sees.

    `length` is what it counts in a batch, `prompt_tokens` what it is charged with. Both are in tokens.
    """

    tokens: tuple[int, ...]
    pictures: tuple[Pixels, ...]
    length: int
    prompt_tokens: int
    is_cut: bool = False


class Content(Struct, frozen=True, kw_only=True):
    """What becomes one vector: a text or the ids of one, which may be empty, and pictures."""

    text: str | tuple[int, ...]
    pictures: tuple[Pixels, ...]


class Reader(Protocol):
    """Turns contents into rows, as one model wants them. Touches no mlx, so any thread may call it."""

    def check(self, number: int, item: EmbedInput) -> None:
        """Raise `RefusedError` if the model does not read inputs of this form."""
        ...

    def row(self, number: int, content: Content, request: EmbedRequest) -> Row:
        """Return the row of one content of input `number`. Raises `RefusedError` for one that is too long."""
        ...


def key_of(row: Row) -> bytes:
    """Return what is equal for rows with equal vectors only."""
    key = blake2b(np.array(row.tokens, np.int32).tobytes(), digest_size=16)
    for picture in row.pictures:
        key.update(repr(picture.shape).encode())
        key.update(picture.tobytes())
    return key.digest()


def check_pictures(number: int, item: EmbedInput) -> tuple[ImagePart | VideoPart, ...]:
    """Return the pictures of an input. Raises `RefusedError` if it is empty, or has several videos."""
    pictures = pictures_among(item)
    if sum(isinstance(part, VideoPart) for part in pictures) > 1:
        raise refusal(number, "has several videos; an input may have one.")
    if not pictures and not text_of(item):
        raise refusal(number, "is empty.")
    return pictures


def contents_of(item: EmbedInput, pictures: Pictures, pooling: FramePooling) -> tuple[Content, ...]:
    """Return the content of an input, or one for each frame of its video that `pooling` asks for.

    What stands beside a video goes with each of its frames.
    """
    parts = pictures_among(item)
    videos = [pictures[part.blob] for part in parts if isinstance(part, VideoPart)]
    frames = len(videos[0]) if videos and pooling != "first" else 1
    return tuple(
        Content(text=text_of(item), pictures=tuple(_shown(part, pictures, frame) for part in parts))
        for frame in range(frames)
    )


def text_of(item: EmbedInput) -> str | tuple[int, ...]:
    """Return the texts of an input as one, or its token ids."""
    if isinstance(item, str | tuple):
        return item
    return "\n".join(part.text for part in item.content if isinstance(part, TextPart))


def check_ids(number: int, ids: Sequence[int], vocabulary: int) -> None:
    """Raise `RefusedError` for an id that is no token: mlx would read beyond its table without an error."""
    for token in ids:
        if not 0 <= token < vocabulary:
            raise refusal(number, f"holds token {token}; this model's tokens are 0 to {vocabulary - 1}.")


def too_long(number: int, tokens: int, limit: int) -> RefusedError:
    """Return what is told of an input that does not fit."""
    return RefusedError(
        "context_length_exceeded",
        f"This model's maximum context length is {limit} tokens. However, input[{number}] has {tokens} tokens.",
        param=f"input[{number}]",
    )


def refusal(number: int, why: str) -> RefusedError:
    """Return what is told of an input that the model does not read."""
    return RefusedError("invalid_request", f"input[{number}] {why}", param=f"input[{number}]")


def _shown(part: ImagePart | VideoPart, pictures: Pictures, frame: int) -> Pixels:
    return pictures[part.blob][frame if isinstance(part, VideoPart) else 0]
