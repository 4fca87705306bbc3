"""Writes what SigLIP reads: a text or an image, never both. Each side of the model has its own."""

from actors.engines.contents import prompt_of
from actors.engines.folder import folder_refusal
from actors.engines.pictures_folder import PictureFolder
from actors.engines.pictures_input import (
    Content,
    Row,
    check_ids,
    check_pictures,
    refusal,
    text_of,
    too_long,
)
from actors.engines.pictures_pixels import scaled, tokens_of
from actors.engines.tokenizer import tokenizer_of
from bus.messages.embeddings import EmbedInput, EmbedRequest


class SiglipReader:
    """The tokenizer of one folder. Every text is filled up to the length that the model was trained on."""

    def __init__(self, folder: PictureFolder) -> None:
        """Raise `RefusedError` if the tokenizer is not there, or lacks the token that texts end in."""
        self._folder = folder
        self._tokenizer = tokenizer_of(folder.path, marks_are_text=True)
        pad: int | None = self._tokenizer.token_to_id(folder.pad)
        if pad is None:
            raise folder_refusal(folder.path, f"has no {folder.pad}")
        self._pad = pad
        # What the tokenizer itself puts after a text, such as </s>.
        self._after: list[int] = self._tokenizer.encode("", add_special_tokens=True).ids

    def check(self, number: int, item: EmbedInput) -> None:
        """Raise `RefusedError` unless an input is one text, one image or one video."""
        pictures = check_pictures(number, item)
        if len(pictures) + bool(text_of(item)) > 1:
            raise refusal(number, "has several parts; this model reads a text, an image or a video, each by itself.")

    def row(self, number: int, content: Content, request: EmbedRequest) -> Row:
        """Return the row of the text or image of input `number`.

        A prompt goes before a text. With `request.truncate` the end of a text is left out that does not fit. Raises
        `RefusedError` for what does not fit without, for an id that is no token, and for a prompt that is said for what
        is no text.
        """
        prompt = prompt_of(request, self._folder.prompts)
        if prompt and not isinstance(content.text or (), str):
            raise refusal(number, "is no text, and a prompt goes only before a text.")
        if content.pictures:
            shown = scaled(content.pictures[0], self._folder.pixels, f"input[{number}]")
            length = tokens_of(shown, self._folder.pixels)
            return Row(tokens=(), pictures=(shown,), length=length, prompt_tokens=length)
        return self._text(number, content.text, prompt, can_cut=request.truncate)

    def _text(self, number: int, text: str | tuple[int, ...], prompt: str, *, can_cut: bool) -> Row:
        said = self._plain(prompt + text) if isinstance(text, str) else text
        check_ids(number, said, self._folder.vocabulary_size)
        limit, length = self._folder.max_tokens, len(said) + len(self._after)
        excess = max(length - limit, 0)
        if excess and not can_cut:
            raise too_long(number, length, limit)
        tokens = (*said[: len(said) - excess], *self._after)
        filled = (*tokens, *[self._pad] * (limit - len(tokens)))
        return Row(tokens=filled, pictures=(), length=limit, prompt_tokens=len(tokens), is_cut=excess > 0)

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
