"""What is said with an embedding model."""

from typing import Annotated

from msgspec import Meta, Struct


class EmbedRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Turn a text or several, or their token ids, into vectors.

    An input longer than the model's limit is refused unless `truncate` is true.
    """

    input: str | Annotated[tuple[str | tuple[int, ...], ...], Meta(min_length=1)]
    truncate: bool = False


class EmbedChunk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Vectors of the inputs from number `start` on, in order; the last chunk carries `prompt_tokens`.

    A vector is little-endian float32, which JSON carries as base64.
    """

    start: int
    vectors: tuple[bytes, ...]
    prompt_tokens: int | None = None
