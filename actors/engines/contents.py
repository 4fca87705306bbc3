"""What the inputs of an embedding request consist of: texts, token ids, and pictures among texts."""

from collections.abc import Mapping

from bus.errors import RefusedError
from bus.messages.embeddings import EmbedInput, EmbedRequest, ImagePart, TextPart, VideoPart


def inputs_of(request: EmbedRequest) -> tuple[EmbedInput, ...]:
    """Return the inputs, also a single one as a tuple."""
    return (request.input,) if isinstance(request.input, str) else request.input


def prompt_of(request: EmbedRequest, prompts: Mapping[str, str], default: str = "") -> str:
    """Return what goes before each text: the prompt that is said, that is named, or else the model's `default`.

    "" is none. Raises `RefusedError` for a name that is not one of the model's `prompts`, and for both.
    """
    name = request.prompt_name
    if request.prompt is not None:
        if name is not None:
            raise RefusedError("invalid_request", "Give only one of prompt and prompt_name.", param="prompt_name")
        return request.prompt
    if name is None:
        return default
    if name not in prompts:
        offer = f"this model's are {', '.join(sorted(prompts))}" if prompts else "this model has none"
        raise RefusedError("invalid_request", f"There is no prompt {name!r}; {offer}.", param="prompt_name")
    return prompts[name]


def pictures_among(item: EmbedInput) -> tuple[ImagePart | VideoPart, ...]:
    """Return the images and videos of one input, in their order."""
    if isinstance(item, str | tuple):
        return ()
    return tuple(part for part in item.content if not isinstance(part, TextPart))


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
