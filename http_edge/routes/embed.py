"""/embed/*: vectors of texts, images, both together, and videos, from forms or JSON."""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Raw, Struct

from bus.decoding import refusal
from bus.errors import RefusedError
from bus.messages.embeddings import EmbedContent, FramePooling, Frames, ImagePart, Part, TextPart, VideoPart
from bus.messages.models import ListModels
from bus.subjects import LIST_MODELS
from http_edge.contents import decoded_url
from http_edge.context import BUS, CONFIG, UPLOADS
from http_edge.embedding import How, Inputs, embedded, floats
from http_edge.generation import refuse_unsupported
from http_edge.portions import naming
from http_edge.routes.embeddings import Usage
from http_edge.upload import Room, read_form
from http_edge.uploads import Held, holding
from http_edge.wire import Listed, ModelName, read_body
from http_edge.writing import large_json_response

# The model normalises its vectors, if it is made so; they are not given in any other way.
NEUTRAL: dict[str, tuple[object, ...]] = {"normalize": (True,)}

# The most bytes of a field of a form.
_SHORT = 256
_LONGEST = {"text": 512 * 1024, "prompt": 64 * 1024}


class TextBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Texts, or one `text`."""

    texts: Annotated[tuple[str, ...], Meta(min_length=1), Listed] | None = None
    text: str | None = None
    model: ModelName | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    allow_lossy: bool | None = None
    truncate: bool | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    normalize: bool | None = None


class ImageBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a form has beside its image."""

    model: ModelName | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    allow_lossy: bool | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    normalize: bool | None = None


class MultimodalBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text, an image, or both, which become one vector. `image` is a `data:` URL; in a form it is a file."""

    text: str | None = None
    image: str | None = None
    model: ModelName | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    allow_lossy: bool | None = None
    truncate: bool | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    normalize: bool | None = None


class VideoBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a form has beside its video: how many frames are embedded, and how their vectors become one."""

    frames: Annotated[int, Meta(ge=1, le=64)] = 8
    pooling: FramePooling = "mean"
    model: ModelName | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    allow_lossy: bool | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    normalize: bool | None = None


FormBody = ImageBody | MultimodalBody | VideoBody
FormT = TypeVar("FormT", ImageBody, MultimodalBody, VideoBody)


class Vectors(Struct, frozen=True, kw_only=True):
    """The vectors, in the order of the inputs; `shape` is how many there are, and how many numbers each has."""

    embeddings: list[Raw]
    shape: tuple[int, int]
    model: str
    processing_time: float
    usage: Usage
    truncated: tuple[int, ...]


class Asked(Struct, frozen=True, kw_only=True):
    """What a request asks. `names` are how its client calls what the model calls `input[0].content[0]` and so on."""

    model: str | None
    inputs: Inputs
    how: How
    names: Mapping[str, str]


async def text(request: web.Request) -> web.StreamResponse:
    """Turn texts into vectors."""
    body = await read_body(request, _text_body)
    refuse_unsupported(body, NEUTRAL)
    if (body.text is None) == (body.texts is None):
        raise RefusedError("invalid_request", "Give exactly one of 'texts' and 'text'.", param="texts")
    inputs = body.texts or (body.text or "",)
    names = {"input": "text", "input[0]": "text"}
    if body.texts is not None:
        names = {"input": "texts"} | {f"input[{number}]": f"texts[{number}]" for number in range(len(inputs))}
    return await _answer(request, Asked(model=body.model, inputs=inputs, how=_how(body), names=names))


async def image(request: web.Request) -> web.StreamResponse:
    """Turn an image into a vector."""
    async with holding(request.app[UPLOADS]) as held:
        body, file = await _form(request, ImageBody, "file", held)
        content = (ImagePart(blob=_required(file)),)
        return await _answer(request, _together(body, content, ("file",), _how(body)))


async def multimodal(request: web.Request) -> web.StreamResponse:
    """Turn a text, an image, or both, into one vector."""
    async with holding(request.app[UPLOADS]) as held:
        if request.content_type == "multipart/form-data":
            body, file = await _form(request, MultimodalBody, "image", held)
        else:
            body = await read_body(request, _multimodal_body)
            refuse_unsupported(body, NEUTRAL)
            limit = request.app[CONFIG].max_image_bytes
            file = None
            if body.image is not None:
                file = await held.put(await asyncio.to_thread(decoded_url, body.image, "image", limit))
        given: dict[str, Part] = {}
        if body.text is not None:
            given["text"] = TextPart(text=body.text)
        if file is not None:
            given["image"] = ImagePart(blob=file)
        if not given:
            raise RefusedError("invalid_request", "Give 'text', 'image', or both.", param="text")
        return await _answer(request, _together(body, tuple(given.values()), tuple(given), _how(body)))


async def video(request: web.Request) -> web.StreamResponse:
    """Turn a video into a vector."""
    async with holding(request.app[UPLOADS]) as held:
        body, file = await _form(request, VideoBody, "file", held)
        content = (VideoPart(blob=_required(file)),)
        how = _how(body, Frames(count=body.frames, pooling=body.pooling))
        return await _answer(request, _together(body, content, ("file",), how))


async def _form(request: web.Request, kind: type[FormT], name: str, held: Held) -> tuple[FormT, str | None]:
    """Return what the form in the body says, and the name of the blob with its file called `name`, if it has one."""
    config = request.app[CONFIG]
    limit = config.max_video_bytes if kind is VideoBody else config.max_image_bytes
    fields = {field: _LONGEST.get(field, _SHORT) for field in kind.__struct_fields__ if field != name}
    form = await read_form(request, Room(names=(name,), file_bytes=limit, fields=fields), held.writing)
    try:
        body = msgspec.convert(form.fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise refusal(error, kind) from error
    refuse_unsupported(body, NEUTRAL)
    if not form.files:
        return body, None
    if not form.files[0].draft.size:
        raise RefusedError("invalid_request", "The file is empty.", param=name)
    return body, form.files[0].draft.name


def _required(file: str | None) -> str:
    if file is None:
        raise RefusedError("invalid_request", "The form has no file.", param="file")
    return file


def _how(body: TextBody | FormBody, frames: Frames | None = None) -> How:
    return How(
        truncate=isinstance(body, TextBody | MultimodalBody) and body.truncate is True,
        keep_alive=None,
        prompt_name=body.prompt_name,
        prompt=body.prompt,
        dimensions=body.dimensions,
        allow_lossy=bool(body.allow_lossy),
        frames=frames or Frames(),
    )


def _together(body: FormBody, content: tuple[Part, ...], fields: tuple[str, ...], how: How) -> Asked:
    """Return what asks for one vector of all of `content`, which the client has given in `fields`."""
    names = {f"input[0].content[{number}]": field for number, field in enumerate(fields)}
    whole = {"input": fields[0], "input[0]": fields[0]}
    return Asked(model=body.model, inputs=(EmbedContent(content=content),), how=how, names=names | whole)


async def _answer(request: web.Request, asked: Asked) -> web.StreamResponse:
    begun = time.monotonic()
    model = asked.model or await _first_ready(request, _senses(asked.inputs))
    width = 0

    def encode(_: int, vector: bytes) -> bytes:
        nonlocal width
        numbers = floats(vector)
        width = len(numbers)
        return _encode(numbers)

    with naming(lambda param: asked.names.get(param, param)):
        said = await embedded(request, model, asked.inputs, encode, asked.how)
    return await large_json_response(
        request,
        Vectors(
            embeddings=said.data,
            shape=(len(said.data), width),
            model=said.model,
            processing_time=round(time.monotonic() - begun, 6),
            usage=Usage(prompt_tokens=said.tokens, total_tokens=said.tokens),
            truncated=said.truncated,
        ),
    )


async def _first_ready(request: web.Request, senses: set[str]) -> str:
    """Return the first model that is ready and reads all of `senses`. Raises `RefusedError` when none does."""
    for card in (await request.app[BUS].ask(LIST_MODELS(), ListModels())).models:
        if card.kind == "embeddings" and card.state == "ready" and senses <= {"text", *card.modalities}:
            return card.id
    wanted = " and ".join(sorted(senses))
    raise RefusedError("model_not_found", f"No embeddings model that reads {wanted} is ready; name one.", param="model")


def _senses(inputs: Inputs) -> set[str]:
    parts = [part for item in inputs if isinstance(item, EmbedContent) for part in item.content]
    texts = {"text"} if any(not isinstance(item, EmbedContent) for item in inputs) else set()
    return texts | {part.__struct_config__.tag for part in parts}  # type: ignore[misc]  # the tag is a text


_text_body = msgspec.json.Decoder(TextBody)
_multimodal_body = msgspec.json.Decoder(MultimodalBody)
_encode = msgspec.json.Encoder().encode

ROUTES = [
    web.post("/embed/text", text),
    web.post("/embed/image", image),
    web.post("/embed/multimodal", multimodal),
    web.post("/embed/video", video),
]
