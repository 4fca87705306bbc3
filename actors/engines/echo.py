"""Engines without a model, which say what they were told. For tests, and for measuring the bus alone."""

import asyncio
import hashlib
import math
import re
import struct
from collections.abc import AsyncGenerator

from msgspec import Struct

from actors.engines.contents import inputs_of, pictures_by_place, prompt_of
from actors.engines.embeddings_dimensions import Dimensions, asked_dimensions, cut
from actors.engines.engine import NO_PICTURES, ModelFacts, Pictures
from actors.engines.messages import text_of
from actors.engines.text_stop import StopMatcher
from actors.engines.tool_choice import callable_tools, is_single, must_call
from bus.errors import RefusedError
from bus.messages.chat import ChatChunk, ChatRequest, FinishReason, ToolCallDelta, Usage
from bus.messages.embeddings import (
    EmbedChunk,
    EmbedContent,
    EmbedInput,
    EmbedRequest,
    ImagePart,
    Part,
    TextPart,
    VideoPart,
)
from bus.messages.rerank import RerankChunk, RerankRequest
from bus.messages.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens

_DIMENSIONS = Dimensions(full=8, offered=(4, 2))
_PROMPTS = {"query": "query: "}

# Lines of a message that are thought and called, instead of said: "think: a thought", "call: get_weather {}".
_THOUGHT = re.compile(r"^think: (.*)\n?", re.MULTILINE)
_CALL = re.compile(r"^call: (\S+) (\{.*\})\n?", re.MULTILINE)


class EchoWork(Struct, frozen=True, kw_only=True):
    """The words to say, each with the white space before it. Thoughts come first and calls last; none is a token."""

    words: tuple[str, ...]
    prompt_tokens: int
    max_tokens: int
    stop: tuple[str, ...]
    thoughts: tuple[str, ...] = ()
    calls: tuple[tuple[str, str], ...] = ()


class EchoEngine:
    """Says the last message, or the prompt, again: a word is a token, `delay` seconds pass before each."""

    def __init__(self, delay: float = 0.0, context_length: int = 4096) -> None:
        self._delay = delay
        self._context_length = context_length
        self._is_loaded = False
        self._vocabulary: list[str] = []

    async def load(self) -> ModelFacts:
        """Be ready."""
        self._is_loaded = True
        return _facts(self._context_length)

    def prepare(self, request: ChatRequest) -> EchoWork:
        """Return the words. Raises `RefusedError` like the engines with a model."""
        if bool(request.messages) == (request.prompt is not None):
            raise RefusedError("invalid_request", "Give exactly one of messages and prompt.", param="messages")
        for param in ("grammar", "top_logprobs"):
            if getattr(request, param) is not None:
                raise RefusedError("unsupported_parameter", f"There is no {param} without a model.", param=param)
        texts = [text_of(message) for message in request.messages] or [_prompt_text(request.prompt)]
        thoughts = tuple(_THOUGHT.findall(texts[-1]))
        said, calls = _called(request, _THOUGHT.sub("", texts[-1]))
        words = _words(said)
        prompt_tokens = sum(len(_words(text)) for text in texts)
        if prompt_tokens + (request.max_tokens or 0) > self._context_length:
            raise RefusedError(
                "context_length_exceeded",
                f"This model's maximum context length is {self._context_length} tokens. "
                f"However, you requested {prompt_tokens + (request.max_tokens or 0)} tokens.",
                param="messages" if request.messages else "prompt",
            )
        return EchoWork(
            words=words,
            prompt_tokens=prompt_tokens,
            max_tokens=request.max_tokens or max(len(words), 1),
            stop=request.stop,
            thoughts=thoughts,
            calls=calls,
        )

    async def generate(self, work: EchoWork) -> AsyncGenerator[ChatChunk]:
        """Yield word by word."""
        matcher = StopMatcher(work.stop)
        spoken = 0
        for thought in work.thoughts:
            yield ChatChunk(reasoning=thought)
        for word in work.words[: work.max_tokens]:
            await asyncio.sleep(self._delay)
            if not self._is_loaded:
                raise RefusedError("restarting", "The model is being unloaded.")
            spoken += 1
            if text := matcher.feed(word):
                yield ChatChunk(text=text)
            if matcher.is_stopped:
                break
        is_cut = spoken < len(work.words) and not matcher.is_stopped
        reason: FinishReason = "length" if is_cut else "stop"
        if not is_cut and not matcher.is_stopped:
            for index, (name, arguments) in enumerate(work.calls):
                reason = "tool_calls"
                # In two pieces, because an engine may do so.
                yield ChatChunk(tool_calls=(ToolCallDelta(index=index, id=f"call-{index}", name=name),))
                yield ChatChunk(tool_calls=(ToolCallDelta(index=index, arguments=arguments),))
        usage = Usage(prompt_tokens=work.prompt_tokens, completion_tokens=spoken)
        yield ChatChunk(text=matcher.flush(), finish_reason=reason, stop_sequence=matcher.matched, usage=usage)

    def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return the number of each word, in the order in which this engine has met them."""
        if bool(request.messages) == (request.prompt is not None):
            raise RefusedError("invalid_request", "Give exactly one of messages and prompt.", param="messages")
        words = _words(" ".join(map(text_of, request.messages)) or request.prompt or "")
        self._vocabulary += [word for word in dict.fromkeys(words) if word not in self._vocabulary]
        return Tokens(tokens=tuple(map(self._vocabulary.index, words)), context_length=self._context_length)

    def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        """Return the words of these numbers. Raises `RefusedError` for one that was not given out."""
        if any(not 0 <= token < len(self._vocabulary) for token in request.tokens):
            raise RefusedError("invalid_request", "A token is not one of this model's.", param="tokens")
        return Detokenized(prompt="".join(self._vocabulary[token] for token in request.tokens))

    async def ping(self) -> None:
        """Return at once."""

    async def unload(self) -> None:
        """End unfinished generations."""
        self._is_loaded = False


class EchoTexts(Struct, frozen=True, kw_only=True):
    """The texts, the numbers of those that were shortened, and how long their vectors shall be."""

    texts: tuple[str, ...]
    truncated: tuple[int, ...]
    dimensions: int


class EchoEmbeddings:
    """Turns an input into a normalised vector made from its hash: equal texts and pixels, equal vectors.

    It has the prompt `query`, and vectors that may be cut to 4 or 2 numbers.
    """

    def __init__(self, context_length: int = 512) -> None:
        self._context_length = context_length

    async def load(self) -> ModelFacts:
        """Be ready."""
        return _facts(self._context_length, _DIMENSIONS.full)

    def pictures_of(self, request: EmbedRequest) -> tuple[ImagePart | VideoPart, ...]:
        """Return all of them."""
        return tuple(pictures_by_place(request).values())

    def prepare(self, request: EmbedRequest, pictures: Pictures = NO_PICTURES) -> EchoTexts:
        """Return the inputs as texts, in which a picture is a word. Raises `RefusedError` like other engines."""
        prompt, pooling = prompt_of(request, _PROMPTS), request.frames.pooling
        inputs = [_content_text(item, pictures, pooling) for item in inputs_of(request)]
        texts = [self._checked(number, text, request.truncate) for number, text in enumerate(inputs)]
        return EchoTexts(
            texts=tuple(prompt + text for text in texts),
            truncated=tuple(number for number, text in enumerate(texts) if text != inputs[number]),
            dimensions=asked_dimensions(request, _DIMENSIONS),
        )

    async def embed(self, work: EchoTexts) -> AsyncGenerator[EmbedChunk]:
        """Yield one chunk per text."""
        for start, text in enumerate(work.texts):
            await asyncio.sleep(0)
            is_last = start == len(work.texts) - 1
            yield EmbedChunk(
                start=start,
                vectors=(cut(_vector(text), work.dimensions, _DIMENSIONS),),
                prompt_tokens=sum(len(_words(each)) for each in work.texts) if is_last else None,
                truncated=(start,) if start in work.truncated else (),
            )

    async def ping(self) -> None:
        """Return at once."""

    async def unload(self) -> None:
        """Do nothing: there is nothing to free."""

    def _checked(self, number: int, text: str, truncate: bool) -> str:
        words, param = _words(text), f"input[{number}]"
        if not words:
            raise RefusedError("invalid_request", f"{param} is empty.", param=param)
        if len(words) > self._context_length and not truncate:
            raise RefusedError(
                "context_length_exceeded",
                f"This model's maximum context length is {self._context_length} tokens. "
                f"However, {param} has {len(words)} tokens.",
                param=param,
            )
        return "".join(words[: self._context_length])


class EchoReranker:
    """Scores a document by how many of the query's words it has."""

    def __init__(self, context_length: int = 512) -> None:
        self._context_length = context_length

    async def load(self) -> ModelFacts:
        """Be ready."""
        return _facts(self._context_length)

    def prepare(self, request: RerankRequest) -> RerankRequest:
        """Return the request. Raises `RefusedError` for a document that is too long without `truncate`."""
        for number, document in enumerate(request.documents):
            if len(_words(document)) > self._context_length and not request.truncate:
                param = f"documents[{number}]"
                message = f"This model's maximum context length is {self._context_length} tokens, and {param} has more."
                raise RefusedError("context_length_exceeded", message, param=param)
        return request

    async def rerank(self, work: RerankRequest) -> AsyncGenerator[RerankChunk]:
        """Yield one chunk per document; each of its words is a token, and so is each of the query's."""
        query = {word.strip() for word in _words(work.query)}
        read = 0
        for start, document in enumerate(work.documents):
            await asyncio.sleep(0)
            words = [word.strip() for word in _words(document)]
            kept = words[: self._context_length]
            read += len(query) + len(kept)
            yield RerankChunk(
                start=start,
                scores=(len(query & set(kept)) / len(query),),
                prompt_tokens=read if start == len(work.documents) - 1 else None,
                truncated=(start,) if len(kept) < len(words) else (),
            )

    async def ping(self) -> None:
        """Return at once."""

    async def unload(self) -> None:
        """Do nothing: there is nothing to free."""


def _facts(context_length: int, dimensions: int | None = None) -> ModelFacts:
    return ModelFacts(
        family="echo",
        context_length=context_length,
        size_bytes=0,
        dtype="float32",
        blas="none",
        dimensions=dimensions,
    )


def _called(request: ChatRequest, said: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return what is left to say, and the calls. Who must call and is told none calls the first tool with nothing."""
    names = [tool.name for tool in callable_tools(request)]
    if not names:
        return said, ()
    calls = [call for call in _CALL.findall(said) if not must_call(request) or call[0] in names]
    if must_call(request):
        return "", tuple(calls or [(names[0], "{}")])[: 1 if is_single(request) else None]
    return _CALL.sub("", said), tuple(calls)[: 1 if is_single(request) else None]


def _words(text: str) -> tuple[str, ...]:
    """Return pieces that joined give `text` again."""
    return tuple(re.findall(r"\s*\S+|\s+$", text))


def _prompt_text(prompt: str | tuple[int, ...] | None) -> str:
    if isinstance(prompt, tuple):
        return " ".join(map(str, prompt))
    return prompt or ""


def _content_text(item: EmbedInput, pictures: Pictures, pooling: str) -> str:
    if not isinstance(item, EmbedContent):
        return _prompt_text(item)
    return " ".join(word for part in item.content for word in _part_words(part, pictures, pooling))


def _part_words(part: Part, pictures: Pictures, pooling: str) -> list[str]:
    if isinstance(part, TextPart):
        return [part.text]
    words = [f"{picture.shape}{hashlib.sha256(picture.tobytes()).hexdigest()}" for picture in pictures[part.blob]]
    return [word.replace(" ", "") for word in words] + [pooling] * isinstance(part, VideoPart)


def _vector(text: str) -> bytes:
    numbers = struct.unpack(f"<{_DIMENSIONS.full}i", hashlib.sha256(text.encode()).digest())
    length = math.sqrt(sum(number**2 for number in numbers))
    return struct.pack(f"<{_DIMENSIONS.full}f", *(number / length for number in numbers))
