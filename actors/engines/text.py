"""The text engine: mlx-lm behind the protocol of the chat actor, with continuous batching.

This file is the event loop's side. `text_model` loads, `text_prompt` reads requests, `text_batch` generates,
`text_split` tells content, reasoning and calls apart.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from llguidance import LLTokenizer
from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    SPMStreamingDetokenizer,
    StreamingDetokenizer,
    TokenizerWrapper,
)
from msgspec import structs

from actors.engines.engine import ModelFacts
from actors.engines.text_batch import TextBatch
from actors.engines.text_dialect import Dialect
from actors.engines.text_logprobs import LogprobLine, Scores
from actors.engines.text_model import TextLimits, TextModel, load_model
from actors.engines.text_prefix_files import PrefixFiles
from actors.engines.text_prompt import PromptReader, TextWork
from actors.engines.text_row import Row
from actors.engines.text_split import FormSplitter, Splitter, splitter_of
from actors.engines.thread import EngineThread
from bus.errors import LostError
from bus.frames import Prefill
from bus.messages.chat import ChatChunk, ChatRequest, FinishReason, TokenLogprob, Usage
from bus.messages.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens


class _Parts(NamedTuple):
    """What exists while a model is loaded."""

    tokenizer: TokenizerWrapper
    token_bytes: LLTokenizer | None
    dialect: Dialect
    reader: PromptReader
    batch: TextBatch


class TextEngine:
    """Serves the language model in one folder. Loads once; a new engine is made for the next time."""

    def __init__(self, path: Path, limits: TextLimits) -> None:
        self._path = path
        self._limits = limits
        self._thread = EngineThread(f"mlx-{path.name}")
        self._parts: _Parts | None = None

    async def load(self) -> ModelFacts:
        """Load and warm up. Raises what `load_model` raises."""
        async with AsyncExitStack() as undo:
            self._thread.start()
            undo.push_async_callback(self._thread.close)
            model = await self._thread.call(load_model, self._path, self._limits)
            parts = self._assemble(model)
            await self._thread.call(parts.batch.open)
            undo.pop_all()
        self._parts = parts
        return model.facts

    def prepare(self, request: ChatRequest) -> TextWork:
        """Return `request` as tokens. Raises `RefusedError` if this model cannot honour it."""
        return self._loaded().reader.read(request)

    async def generate(self, work: TextWork) -> AsyncGenerator[ChatChunk | Prefill]:
        """Yield the continuation, and before that how much of a long prompt was read.

        Closing the generator frees its place in the batch within a step.
        """
        parts = self._loaded()
        row = Row(work)
        splitter = splitter_of(parts.dialect, work)
        speech = _Speech(parts.tokenizer.detokenizer, splitter, work)
        if parts.token_bytes is not None and work.top_logprobs is not None:
            speech.line = LogprobLine(parts.token_bytes)
        parts.batch.add(row)
        try:
            while speech.finish_reason is None:
                tokens, finish_reason = await row.take()
                if not tokens:
                    yield row.prefill
                    continue
                scores = [row.scores.popleft() for _ in tokens] if speech.line else []
                said = speech.say(tokens, finish_reason, scores)
                if speech.finish_reason is None and said != _NOTHING:
                    yield said
        finally:
            parts.batch.remove(row)
        yield structs.replace(
            said,
            finish_reason=speech.finish_reason,
            stop_sequence=splitter.parts.stop_sequence,
            usage=speech.usage(row.cached_tokens),
        )

    def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return what `generate` would read. Raises `RefusedError` for what this model cannot read."""
        return self._loaded().reader.tokenize(request)

    def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        """Return the text of tokens. Raises `RefusedError` for one that the model does not have."""
        return self._loaded().reader.detokenize(request)

    async def ping(self) -> None:
        """Return when the engine thread has answered. Raises `LostError` if the engine is beyond repair."""
        self._loaded()
        await self._thread.call(lambda: None)

    async def unload(self) -> None:
        """Free the model and end the thread. Unfinished generations end with `RefusedError`."""
        parts, self._parts = self._parts, None
        if parts is not None:
            # A thread that has crashed holds nothing any more.
            with suppress(LostError):
                await self._thread.call(parts.batch.close)
        await self._thread.close()

    def _assemble(self, model: TextModel) -> _Parts:
        dialect = Dialect(model.tokenizer)
        folder = self._limits.prefix_folder
        weights = (self._path, self._limits.adapter) if self._limits.adapter else (self._path,)
        files = None if folder is None else PrefixFiles(folder, weights, model.facts.dtype, model.quantisation)
        return _Parts(
            tokenizer=model.tokenizer,
            dialect=dialect,
            token_bytes=model.token_bytes,
            reader=PromptReader(model, self._limits, dialect),
            batch=TextBatch(model, self._limits, self._thread, files),
        )

    def _loaded(self) -> _Parts:
        if self._parts is None:
            raise LostError("unavailable", f"The model {self._path.name} is not loaded.")
        if self._parts.batch.is_broken:
            raise LostError("crashed", f"The model {self._path.name} fails for every text.")
        return self._parts


class _Speech:
    """Turns the tokens of one row into text, and decides where it ends."""

    def __init__(self, detokenizer: StreamingDetokenizer, splitter: Splitter | FormSplitter, work: TextWork) -> None:
        self._detokenizer = detokenizer
        if work.is_exact and isinstance(detokenizer, BPEStreamingDetokenizer | SPMStreamingDetokenizer):
            # They leave out a space where there is no text yet.
            detokenizer.text, detokenizer.offset = "\n", 1
        self._splitter = splitter
        self._prompt_tokens = len(work.prompt)
        self._completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.line: LogprobLine | None = None

    def say(self, tokens: list[int], finish_reason: FinishReason | None, scores: Sequence[Scores] = ()) -> ChatChunk:
        """Return what `tokens` add; `finish_reason` belongs to the last of them."""
        said: list[ChatChunk] = []
        for at, token in enumerate(tokens, 1):
            is_last = finish_reason is not None and at == len(tokens)
            self._completion_tokens += 1
            # With "stop" the last token is the end-of-turn token, which is no text.
            if not (is_last and finish_reason == "stop"):
                self._detokenizer.add_token(token)
            if is_last:
                self._detokenizer.finalize()
            segment = self._detokenizer.last_segment
            if self.line is not None and not (is_last and finish_reason == "stop"):
                self.line.hear(token, scores[at - 1], segment)
            if segment:
                said += self._split(segment)
            if self._splitter.parts.is_stopped:
                return self._end(said, "stop")
        if finish_reason is None:
            return self._joined(said)
        said.append(self._splitter.flush(was_cut=finish_reason == "length"))
        if self.line is not None:
            self.line.follow(self._splitter.track, 0)
        return self._end(said, finish_reason)

    def _split(self, segment: str) -> list[ChatChunk]:
        if self.line is None:
            return [self._splitter.feed(segment)]
        said = []
        for character in segment:
            said.append(self._splitter.feed(character))
            self.line.follow(self._splitter.track)
            if self._splitter.parts.is_stopped:
                break
        return said

    def _end(self, said: list[ChatChunk], reason: FinishReason) -> ChatChunk:
        self.finish_reason = "tool_calls" if reason == "stop" and self._splitter.parts.has_called else reason
        return self._joined(said)

    def _joined(self, said: list[ChatChunk]) -> ChatChunk:
        text = "".join(each.text for each in said)
        return ChatChunk(
            text=text,
            reasoning="".join(each.reasoning for each in said),
            tool_calls=tuple(call for each in said for call in each.tool_calls),
            logprobs=self._logprobs(text),
        )

    def _logprobs(self, text: str) -> tuple[TokenLogprob, ...]:
        """Return what belongs to the `text` that is said now, if it was asked for."""
        if self.line is None:
            return ()
        is_all = self.finish_reason is not None and not self._splitter.parts.is_stopped
        return self.line.tell(text, is_all=is_all)

    def usage(self, cached_tokens: int) -> Usage:
        """Return what was read and written so far."""
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            cached_tokens=cached_tokens,
        )


_NOTHING = ChatChunk()
