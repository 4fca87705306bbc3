"""Fits sources into what a chat model reads: fewer of them rather than parts."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import islice

from msgspec import Struct

from actors.rag.chat_models import ChatModels
from actors.rag.prompt import conversation, distinct, source
from bus.errors import RefusedError
from bus.messages.chat import Message
from bus.messages.rag import Hit

# Tokens that are left for the answer unless said: a quarter of what the model reads, and not more than these.
_ANSWER_TOKENS = 1024


class Question(Struct, frozen=True, kw_only=True):
    """What a model is asked: about these hits, after what was said before, for an answer of so many tokens."""

    text: str
    hits: tuple[Hit, ...]
    before: tuple[Message, ...] = ()
    max_tokens: int | None = None


class Fitted(Struct, frozen=True, kw_only=True):
    """What a model is told, and its sources by number. `warnings` say, in words, what was left out."""

    messages: tuple[Message, ...]
    sources: Mapping[int, Hit]
    warnings: tuple[str, ...]


class _Layout(Struct, frozen=True, kw_only=True):
    """One way to put it, with all its sources."""

    text: str
    before: tuple[Message, ...]
    sources: Mapping[int, str]
    warnings: tuple[str, ...]

    def told(self, count: int) -> tuple[Message, ...]:
        """Return what a model is told with the first `count` sources."""
        return conversation(self.text, dict(islice(self.sources.items(), count)), self.before)


async def fitted(models: ChatModels, model: str, question: Question) -> Fitted:
    """Return as much as the model reads.

    1. As many sources as fit beside all that was said before.
    2. If none does, as many as fit without what was said before.
    3. If none does, as many as fit without the sections around them.

    Raises `RefusedError` ("context_length_exceeded") if none does, and `BusError` when the model cannot be asked.
    """
    hits = distinct(question.hits)
    for layout in await asyncio.to_thread(_layouts, question, hits):
        count = await _most(len(hits), partial(_fits, models, model, layout, question.max_tokens))
        if count:
            left_out = len(hits) - count
            fewer = (f"The model '{model}' was given only {count} of {len(hits)} sources: more do not fit.",)
            return Fitted(
                messages=layout.told(count),
                sources=dict(islice(hits.items(), count)),
                warnings=layout.warnings + fewer * (left_out > 0),
            )
    raise RefusedError("context_length_exceeded", f"Not one source fits into what the model '{model}' reads.")


def _layouts(question: Question, hits: Mapping[int, Hit]) -> list[_Layout]:
    whole = {number: source(number, hit) for number, hit in hits.items()}
    layouts = [_Layout(text=question.text, before=question.before, sources=whole, warnings=())]
    warnings: tuple[str, ...] = ()
    if question.before:
        warnings = ("What was said before does not fit beside a source, and was left out.",)
        layouts.append(_Layout(text=question.text, before=(), sources=whole, warnings=warnings))
    if any(hit.parent is not None for hit in hits.values()):
        bare = {number: source(number, hit, with_parent=False) for number, hit in hits.items()}
        warnings += ("The sections around the sources do not fit, and were left out.",)
        layouts.append(_Layout(text=question.text, before=(), sources=bare, warnings=warnings))
    return layouts


async def _fits(models: ChatModels, model: str, layout: _Layout, max_tokens: int | None, count: int) -> bool:
    tokens = await models.tokens(model, layout.told(count))
    if tokens is None:
        return False
    room = max_tokens or min(_ANSWER_TOKENS, tokens.context_length // 4)
    return len(tokens.tokens) + room <= tokens.context_length


async def _most(count: int, fits: Callable[[int], Awaitable[bool]]) -> int:
    """Return how many of `count` fit, where fewer fit if more do."""
    if await fits(count):
        return count
    least, most = 0, count
    while most - least > 1:
        middle = (least + most) // 2
        if await fits(middle):
            least = middle
        else:
            most = middle
    return least
