"""What the inputs of an embedding request consist of: texts, token ids, and pictures among texts."""

from bus.errors import RefusedError
from bus.messages.embeddings import EmbedContent, EmbedInput, EmbedRequest, ImagePart, TextPart, VideoPart


def inputs_of(request: EmbedRequest) -> tuple[EmbedInput, ...]:
    """Return the inputs, also a single one as a tuple."""
    return (request.input,) if isinstance(request.input, str) else request.input


def pictures_among(item: EmbedInput) -> tuple[ImagePart | VideoPart, ...]:
    """Return the images and videos of one input, in their order."""
    if isinstance(item, str | tuple):
        return ()
    return tuple(part for part in item.content if not isinstance(part, TextPart))


def pictures_by_place(request: EmbedRequest) -> dict[str, ImagePart | VideoPart]:
    """Return the images and videos of all inputs, by where they stand: `input[0].content[1]`."""
    return {
        f"input[{number}].content[{index}]": part
        for number, item in enumerate(inputs_of(request))
        if isinstance(item, EmbedContent)
        for index, part in enumerate(item.content)
        if not isinstance(part, TextPart)
    }


def without_pictures(inputs: tuple[EmbedInput, ...]) -> tuple[str | tuple[int, ...], ...]:
    """Return the inputs as texts and token ids. Raises `RefusedError` that names the first one with a picture."""
    return tuple(_plain(number, item) for number, item in enumerate(inputs))


def _plain(number: int, item: EmbedInput) -> str | tuple[int, ...]:
    if isinstance(item, str | tuple):
        return item
    if pictures := pictures_among(item):
        name = "videos" if isinstance(pictures[0], VideoPart) else "images"
        raise RefusedError("invalid_request", f"This model reads texts, not {name}.", param=f"input[{number}]")
    return "\n".join(part.text for part in item.content if isinstance(part, TextPart))
