"""Turns the inputs of an embedding request into token ids, or says which of them cannot be honoured.

Touches no mlx. Everything here is a pure function of the folder, so any thread may call it.
"""

from collections.abc import Sequence

from msgspec import Struct
from tokenizers import Tokenizer

from actors.engines.contents import inputs_of, without_pictures
from actors.engines.embeddings_folder import EmbeddingFolder
from bus.errors import RefusedError
from bus.messages.embeddings import EmbedRequest

_PROBE = "a"


class EmbedWork(Struct, frozen=True, kw_only=True):
    """The inputs as the model reads them, special tokens included; `prompt_tokens` counts them all."""

    tokens: tuple[tuple[int, ...], ...]
    prompt_tokens: int


class InputTokens:
    """The tokenizer of one folder."""

    def __init__(self, folder: EmbeddingFolder) -> None:
        self._folder = folder
        self._tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
        # The file may ask for a fixed length: MiniLM's pads and cuts everything to 128.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._before, self._after = _special_tokens(self._tokenizer)

    def work(self, request: EmbedRequest) -> EmbedWork:
        """Return the tokens of every input, in order.

        Token ids are content, as in OpenAI's interface: they get the same special tokens as a text.
        Raises `RefusedError` naming the first input that is empty, holds an id which the model does not know,
        or is too long; with `request.truncate` the end of a long one is left out instead.
        """
        contents = self._contents(without_pictures(inputs_of(request)))
        tokens = tuple(self._wrapped(number, ids, request.truncate) for number, ids in enumerate(contents))
        return EmbedWork(tokens=tokens, prompt_tokens=sum(map(len, tokens)))

    def _contents(self, inputs: Sequence[str | tuple[int, ...]]) -> list[Sequence[int]]:
        for number, item in enumerate(inputs):
            if not item:
                raise RefusedError("invalid_request", f"Input {number} is empty.", param=f"input[{number}]")
        texts = [item for item in inputs if isinstance(item, str)]
        if self._folder.is_lower_case:
            texts = [text.lower() for text in texts]
        encodings = iter(self._tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        return [next(encodings).ids if isinstance(item, str) else item for item in inputs]

    def _wrapped(self, number: int, content: Sequence[int], truncate: bool) -> tuple[int, ...]:
        vocabulary = self._folder.vocabulary_size
        unknown = [token for token in content if not 0 <= token < vocabulary]
        if unknown:
            # mlx would read beyond the table of embeddings without an error.
            raise RefusedError(
                "invalid_request",
                f"Input {number} holds token {unknown[0]}; this model's tokens are 0 to {vocabulary - 1}.",
                param=f"input[{number}]",
            )
        limit = self._folder.max_tokens
        excess = len(self._before) + len(content) + len(self._after) - limit
        if excess > 0 and not truncate:
            raise RefusedError(
                "context_length_exceeded",
                f"This model's maximum context length is {limit} tokens. "
                f"However, input {number} has {limit + excess} tokens.",
                param=f"input[{number}]",
            )
        tokens = (*self._before, *content[: len(content) - max(excess, 0)], *self._after)
        if not tokens:
            raise RefusedError("invalid_request", f"Input {number} has no tokens.", param=f"input[{number}]")
        return tokens


def _special_tokens(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what the tokenizer puts before and after a text."""
    probe = tokenizer.encode(_PROBE)
    before = probe.special_tokens_mask.index(0)
    after = len(probe.ids) - probe.special_tokens_mask[::-1].index(0)
    return tuple(probe.ids[:before]), tuple(probe.ids[after:])
