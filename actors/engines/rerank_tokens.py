"""Turns a query and its documents into token ids, or says which of them cannot be honoured.

Touches no mlx. Everything here is a pure function of the folder, so any thread may call it.
"""

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct
from tokenizers import Encoding, Tokenizer

from actors.engines.folder import folder_refusal
from actors.engines.rerank_folder import RerankFolder
from actors.engines.tokenizer import tokenizer_of
from bus.errors import RefusedError
from bus.messages.rerank import RerankRequest

# As the makers of Qwen3-Reranker write them, thoughts left empty.
_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

# A query before each of many documents is much more than was said.
_MOST_CHARACTERS = 16 * 2**20


class Row(Struct, frozen=True):
    """The query with one document as the model reads them; `types`, where it reads them, has as many."""

    tokens: tuple[int, ...]
    types: tuple[int, ...] = ()


class RerankWork(Struct, frozen=True, kw_only=True):
    """A row for each document, and the numbers of those documents that were shortened."""

    rows: tuple[Row, ...]
    truncated: tuple[int, ...]


class RerankTokens(Protocol):
    """The tokenizer of one folder."""

    def work(self, request: RerankRequest) -> RerankWork:
        """Return the rows of `request`, in the order of its documents.

        Raises `RefusedError` naming the query, or a longer instruction, if no document could fit beside it, or it
        stands before too many, and the first document that is empty, or too long without `request.truncate`.
        """
        ...


class PairTokens:
    """For cross-encoders: the query and the document, with what the tokenizer puts around and between them."""

    def __init__(self, folder: RerankFolder) -> None:
        self._folder = folder
        self._tokenizer = _tokenizer(folder)

    def work(self, request: RerankRequest) -> RerankWork:
        """Return the rows of `request`. Raises as `RerankTokens` does, and for an instruction."""
        if request.instruction is not None:
            raise RefusedError("unsupported_parameter", "This model takes no instruction.", param="instruction")
        _check_texts(request)
        query = self._tokenizer.encode(request.query, add_special_tokens=False)
        taken = len(query) + self._tokenizer.num_special_tokens_to_add(is_pair=True)
        room = _room(self._folder.max_tokens, taken, "query")
        documents = self._tokenizer.encode_batch_fast(list(request.documents), add_special_tokens=False)
        kept = [room.kept(number, len(tokens), request) for number, tokens in enumerate(documents)]
        shortened = _shortened(map(len, documents), kept)
        for tokens, length in zip(documents, kept, strict=True):
            tokens.truncate(length)
        return RerankWork(rows=tuple(self._row(query, tokens) for tokens in documents), truncated=shortened)

    def _row(self, query: Encoding, document: Encoding) -> Row:
        pair = self._tokenizer.post_process(query, document)
        return Row(tuple(pair.ids), tuple(pair.type_ids) if self._folder.reads_types else ())


class PromptTokens:
    """For generative rerankers: a conversation that ends where the model would say yes or no."""

    def __init__(self, folder: RerankFolder) -> None:
        """Raise `RefusedError` if yes or no is no token."""
        self._folder = folder
        self._tokenizer = _tokenizer(folder)
        self._before, self._after = self._ids(_BEFORE), self._ids(_AFTER)
        # From here on a text is a text: what it says does not end the turn.
        self._tokenizer.encode_special_tokens = True
        self.answers = self._answer("yes"), self._answer("no")

    def work(self, request: RerankRequest) -> RerankWork:
        """Return the rows of `request`. Raises as `RerankTokens` does."""
        _check_texts(request)
        question = f"<Instruct>: {request.instruction or _INSTRUCTION}\n<Query>: {request.query}\n<Document>: "
        asked = len(self._ids(question))
        room = _room(self._folder.max_tokens, len(self._before) + asked + len(self._after), _longer(request))
        texts = [question + document for document in request.documents]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        # The last token of the question may have become one with the first of the document.
        lengths = [max(len(tokens) - asked, 1) for tokens in encodings]
        kept = [room.kept(number, length, request) for number, length in enumerate(lengths)]
        rows = (
            Row((*self._before, *tokens.ids[: asked + length], *self._after))
            for tokens, length in zip(encodings, kept, strict=True)
        )
        return RerankWork(rows=tuple(rows), truncated=_shortened(lengths, kept))

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _answer(self, word: str) -> int:
        token = self._tokenizer.token_to_id(word)
        if token is None:
            raise folder_refusal(self._folder.path, f"has no token {word!r}")
        return token


class _Room(Struct, frozen=True):
    """What a row may have, and what it has besides the document."""

    limit: int
    taken: int

    def kept(self, number: int, length: int, request: RerankRequest) -> int:
        """Return how many of the document's `length` tokens are read. Raises `RefusedError` if it is too long."""
        wanted = min(length, request.max_document_tokens or length)
        if self.taken + wanted > self.limit and not request.truncate:
            param = f"documents[{number}]"
            raise _too_long(self.limit, f"the query with {param} has {self.taken + wanted}", param)
        return min(wanted, self.limit - self.taken)


def _room(limit: int, taken: int, param: str) -> _Room:
    """Return the room beside what is read with each document. Raises `RefusedError` that names `param` for none."""
    if taken >= limit:
        raise _too_long(limit, f"the {param} with an empty document has {taken + 1}", param)
    return _Room(limit, taken)


def _longer(request: RerankRequest) -> str:
    """Return which field is to blame where what is read with each document is too much."""
    return "instruction" if len(request.instruction or "") > len(request.query) else "query"


def _tokenizer(folder: RerankFolder) -> Tokenizer:
    tokenizer = tokenizer_of(folder.path)
    if tokenizer.get_vocab_size() > folder.vocabulary_size:
        # mlx would read beyond the table of embeddings without an error.
        raise folder_refusal(folder.path, "has more tokens in its tokenizer than in its weights")
    return tokenizer


def _check_texts(request: RerankRequest) -> None:
    query, instruction, count = len(request.query), len(request.instruction or ""), len(request.documents)
    if (query + instruction) * count > _MOST_CHARACTERS:
        message = f"{query + instruction} characters before each of {count} documents are too much; send fewer at once."
        raise RefusedError("too_large", message, param=_longer(request))
    empty = next((number for number, text in enumerate(request.documents) if not text), None)
    if empty is not None:
        param = f"documents[{empty}]"
        raise RefusedError("invalid_request", f"The text of {param} is empty.", param=param)


def _shortened(lengths: Iterable[int], kept: Iterable[int]) -> tuple[int, ...]:
    pairs = enumerate(zip(lengths, kept, strict=True))
    return tuple(number for number, (length, left) in pairs if left < length)


def _too_long(limit: int, what: str, param: str) -> RefusedError:
    message = f"This model's maximum context length is {limit} tokens. However, {what} tokens."
    return RefusedError("context_length_exceeded", message, param=param)
