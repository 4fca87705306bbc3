"""Inputs with pictures, as `/v1/embeddings` has them: OpenAI's parts, and Cohere's `content` of several parts."""

import asyncio
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal, assert_never

import msgspec
from msgspec import Meta, Struct

from bus.decoding import refusal
from bus.errors import RefusedError
from bus.messages.embeddings import EmbedContent, EmbedInput, ImagePart, Part, TextPart, VideoPart
from http_edge.config import EdgeConfig
from http_edge.uploads import Held
from http_edge.wire import Listed, each_text

# Texts, token ids, or objects, which are read as `Content` or `Piece`.
Given = str | Annotated[tuple[str | int | tuple[int, ...] | dict[str, Any], ...], Listed]

# Each is a file that is written to the disk.
_MOST_PICTURES = 256


class Url(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a picture is; `detail` is OpenAI's, and the model's own when it is `auto`."""

    url: str
    detail: Literal["auto"] | None = None


class TextPiece(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A text."""

    text: str


class ImagePiece(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="image_url"):
    """An image."""

    image_url: str | Url


class VideoPiece(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="video_url"):
    """A video."""

    video_url: str | Url


Piece = TextPiece | ImagePiece | VideoPiece


class Content(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of several parts."""

    content: Annotated[tuple[Piece, ...], Meta(min_length=1)]


class Inputs(Struct, frozen=True, kw_only=True):
    """Inputs for the bus. `names` says how the client calls what is called `input[0].content[0]` and so on there."""

    inputs: tuple[EmbedInput, ...]
    names: Mapping[str, str] = {}


async def read_inputs(given: Given, held: Held, config: EdgeConfig) -> Inputs:
    """Return the inputs, their pictures stored in `held`. Raises `RefusedError` that names the one at fault."""
    if isinstance(given, str) or not any(isinstance(item, dict) for item in given):
        is_one = isinstance(given, str) or isinstance(next(iter(given), None), int)
        return Inputs(inputs=each_text(plain(given), "input"), names={"input[0]": "input"} if is_one else {})
    read = [_object(item, number) if isinstance(item, dict) else item for number, item in enumerate(given)]
    reader = _Reader(held, config)
    inputs = [await reader.input(item, f"input[{number}]") for number, item in enumerate(read)]
    return Inputs(inputs=tuple(inputs), names=reader.names)


def plain(given: Given) -> str | tuple[str | int | tuple[int, ...], ...]:
    """Return texts and token ids. Raises `RefusedError` that names an object among them."""
    if isinstance(given, str):
        return given
    for number, item in enumerate(given):
        if isinstance(item, dict):
            message = "Only texts and token ids are supported here, not content parts."
            raise RefusedError("unsupported_parameter", message, param=f"input[{number}]")
    return tuple(item for item in given if not isinstance(item, dict))


def decoded_url(url: str, param: str, limit: int) -> bytes:
    """Return what is in a `data:` URL. Raises `RefusedError` for any other, and for more than `limit` bytes."""
    head, _, body = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64")):
        message = (
            f"The server fetches nothing: {url[:40]!r} has to be a 'data:' URL with the file in base64, "
            "such as 'data:image/png;base64,…'."
        )
        raise RefusedError("invalid_request", message, param=param)
    if len(body) // 4 * 3 > limit + 2:
        raise RefusedError("too_large", f"The file is larger than {limit} bytes.", param=param)
    try:
        content = binascii.a2b_base64(body, strict_mode=True)
    except ValueError as error:
        raise RefusedError("invalid_request", f"The base64 is not valid: {error}.", param=param) from error
    if not content:
        raise RefusedError("invalid_request", "The file is empty.", param=param)
    return content


def _object(item: dict[str, Any], number: int) -> Content | Piece:
    kind: Any = Content if "content" in item else Piece
    try:
        read: Content | Piece = msgspec.convert(item, kind)
    except msgspec.ValidationError as error:
        raise refusal(error, kind, f"input[{number}]") from error
    return read


class _Reader:
    """Stores the pictures of one request."""

    def __init__(self, held: Held, config: EdgeConfig) -> None:
        self.names: dict[str, str] = {}
        self._held = held
        self._config = config

    async def input(self, item: str | int | tuple[int, ...] | Content | Piece, where: str) -> EmbedInput:
        """Return the input that stands at `where`."""
        match item:
            case int():
                raise RefusedError("invalid_request", "Token ids and contents cannot stand in one list.", param=where)
            case str() | tuple():
                return item
            case TextPiece():
                return item.text
            case Content():
                places = [f"{where}.content[{index}]" for index in range(len(item.content))]
                pairs = zip(item.content, places, strict=True)
                return EmbedContent(content=tuple([await self._part(piece, place, place) for piece, place in pairs]))
            case _:
                return EmbedContent(content=(await self._part(item, where, f"{where}.content[0]"),))

    async def _part(self, piece: Piece, place: str, name: str) -> Part:
        """Return `piece`, which stands at `place` and is called `name` on the bus."""
        match piece:
            case TextPiece():
                return TextPart(text=piece.text)
            case ImagePiece():
                self.names[name] = f"{place}.image_url"
                return ImagePart(blob=await self._put(piece.image_url, self.names[name], self._config.max_image_bytes))
            case VideoPiece():
                self.names[name] = f"{place}.video_url"
                return VideoPart(blob=await self._put(piece.video_url, self.names[name], self._config.max_video_bytes))
            case _:
                assert_never(piece)

    async def _put(self, given: str | Url, param: str, limit: int) -> str:
        if len(self.names) > _MOST_PICTURES:
            message = f"A request has at most {_MOST_PICTURES} images and videos."
            raise RefusedError("invalid_request", message, param=param)
        url = given.url if isinstance(given, Url) else given
        return await self._held.put(await asyncio.to_thread(decoded_url, url, param, limit))
