"""What is said with an embedding model."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

BlobName = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
FramePooling = Literal["mean", "max", "first", "attention"]


class TextPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A text among pictures."""

    text: str


class ImagePart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="image"):
    """An image as it was encoded, in a blob."""

    blob: BlobName


class VideoPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="video"):
    """A video as it was encoded, in a blob."""

    blob: BlobName


Part = TextPart | ImagePart | VideoPart


class EmbedContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Text and pictures that become one vector together."""

    content: Annotated[tuple[Part, ...], Meta(min_length=1)]


class Frames(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a video becomes a vector: `count` frames, evenly over its length, each embedded, and pooled."""

    count: Annotated[int, Meta(ge=1, le=64)] = 8
    pooling: FramePooling = "mean"


EmbedInput = str | tuple[int, ...] | EmbedContent


class EmbedRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Turn a text or several, their token ids, or contents with pictures into vectors.

    An input longer than the model's limit is refused unless `truncate` is true. `prompt_name` names one of the model's
    prompts, `prompt` is one; it goes before each input. `dimensions` cuts the vectors and normalises them again: only
    where the model is made for it, or with `allow_lossy`.
    """

    input: str | Annotated[tuple[EmbedInput, ...], Meta(min_length=1)]
    truncate: bool = False
    prompt_name: str | None = None
    prompt: str | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    allow_lossy: bool = False
    frames: Frames = Frames()


class EmbedChunk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Vectors of the inputs from number `start` on, in order; the last chunk carries `prompt_tokens`.

    A vector is little-endian float32, which JSON carries as base64. `truncated` are the numbers of those of these
    inputs that were shortened.
    """

    start: int
    vectors: tuple[bytes, ...]
    prompt_tokens: int | None = None
    truncated: tuple[int, ...] = ()
