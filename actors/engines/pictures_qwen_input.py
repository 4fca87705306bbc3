"""Writes what Qwen's embedding models read: a conversation in which the user shows pictures and says a text."""

import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Final

from actors.engines.contents import prompt_of
from actors.engines.folder import folder_refusal
from actors.engines.pictures_folder import PictureFolder
from actors.engines.pictures_input import Content, Row, check_ids, check_pictures, refusal, too_long
from actors.engines.pictures_pixels import scaled, tokens_of
from actors.engines.tokenizer import tokenizer_of
from bus.messages.embeddings import EmbedInput, EmbedRequest

_BEGIN, _END, _LAST = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_SHOW, _SEEN, _SHOWN = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
_FILM = "<|video_pad|>"
_MARKS: Final = (_BEGIN, _END, _LAST, _SHOW, _SEEN, _SHOWN, _FILM)


class QwenReader:
    """The tokenizer of one folder.

    Pictures go before the text, wherever they stand, as in the code of the makers of these models:

        <|im_start|>system⏎{instruction}<|im_end|>⏎<|im_start|>user⏎{pictures}{text}<|im_end|>⏎<|im_start|>assistant⏎

    and Qwen2-VL's end in <|endoftext|>. Marks in a text are text.
    """

    def __init__(self, folder: PictureFolder) -> None:
        """Raise `RefusedError` if the tokenizer is not there, or has not the marks that the model looks for."""
        self._folder = folder
        self._tokenizer = tokenizer_of(folder.path, marks_are_text=True)
        self._marks = {mark: self._mark(mark) for mark in _MARKS}
        for mark, number in ((_SHOW, folder.show), (_SEEN, folder.seen)):
            # The model would not see the pictures, and say nothing.
            if self._marks[mark] != number:
                raise folder_refusal(folder.path, f"looks for token {number}, but {mark} is {self._marks[mark]}")

    def check(self, number: int, item: EmbedInput) -> None:
        """Raise `RefusedError` if an input is empty, or has several videos."""
        check_pictures(number, item)

    def row(self, number: int, content: Content, request: EmbedRequest) -> Row:
        """Return the row of one content of input `number`.

        Token ids are a text. With `request.truncate` the end of a text is left out that does not fit. Raises
        `RefusedError` for what does not fit without, and for an id that is no token or stands for a picture.
        """
        pixels, limit = self._folder.pixels, self._folder.max_tokens
        shown = tuple(scaled(picture, pixels, f"input[{number}]") for picture in content.pictures)
        self._check_ids(number, content.text)
        instruction = self._instruction(prompt_of(request, self._folder.prompts, self._folder.instruction))
        before, text, after = self._parts(instruction, content.text, [tokens_of(picture, pixels) for picture in shown])
        length = len(before) + len(text) + len(after)
        excess = max(length - limit, 0)
        if excess and (not request.truncate or excess >= len(text)):
            raise too_long(number, length, limit)
        tokens = (*before, *text[: len(text) - excess], *after)
        return Row(tokens=tokens, pictures=shown, length=len(tokens), prompt_tokens=len(tokens), is_cut=excess > 0)

    def _parts(
        self, instruction: str, text: str | tuple[int, ...], shown: Sequence[int]
    ) -> tuple[list[int], Sequence[int], list[int]]:
        """Return the tokens before the text, of it, and after it. `shown` are how many each picture is."""
        marks, says = self._marks, self._plain
        turn = [marks[_END], *says("\n"), marks[_BEGIN]]
        before = [marks[_BEGIN], *says(f"system\n{instruction}"), *turn]
        if shown or isinstance(text, tuple):
            seen = ([marks[_SHOW], *[marks[_SEEN]] * count, marks[_SHOWN]] for count in shown)
            before += [*says("user\n"), *chain.from_iterable(seen)]
            said = text if isinstance(text, tuple) else says(text)
        else:
            # Together, because a line break and the blanks of an indented text may be one token.
            said = says(f"user\n{text}")
        last = [marks[_LAST]] if self._folder.family == "qwen2_vl" else []
        return before, said, [*turn, *says("assistant\n"), *last]

    def _instruction(self, prompt: str) -> str:
        """Return the instruction as the model was trained on it: to Qwen3-VL each is a sentence."""
        if self._folder.family == "qwen2_vl":
            return prompt
        prompt = prompt.strip() or self._folder.instruction
        return prompt if unicodedata.category(prompt[-1]).startswith("P") else f"{prompt}."

    def _check_ids(self, number: int, text: str | tuple[int, ...]) -> None:
        if isinstance(text, str):
            return
        check_ids(number, text, self._folder.vocabulary_size)
        for mark in (_SEEN, _FILM):
            if self._marks[mark] in text:
                raise refusal(number, f"holds token {self._marks[mark]}, which stands for a picture that is not there.")

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _mark(self, mark: str) -> int:
        number: int | None = self._tokenizer.token_to_id(mark)
        if number is None:
            raise folder_refusal(self._folder.path, f"has no {mark}")
        return number
