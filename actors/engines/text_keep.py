"""Decides what a batch has read and written that is worth keeping for prompts that come later."""

from collections.abc import Iterable, Mapping

from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch

from actors.engines.text_prefix import PrefixCache
from actors.engines.text_row import Row

# Tokens read; a shorter prompt is kept only when its row ends.
_WORTH_SHARING = 64


def worth_sharing(tokens: int) -> int:
    """Return `tokens`, or 0 if having read them is not worth sharing."""
    return tokens if tokens >= _WORTH_SHARING else 0


def keep(
    prefixes: PrefixCache,
    generator: BatchGenerator,
    rows: Mapping[int, Row],
    read: Iterable[PromptProcessingBatch.Response],
    responses: Iterable[GenerationBatch.Response],
) -> bool:
    """Keep the long prompts that were just read, for those who come meanwhile, and the texts that have ended.

    Of a prompt that parts from an earlier one, what they have in common is kept too. Returns whether anything was.
    """
    if not prefixes.is_on:
        return False
    ended = [response for response in responses if response.finish_reason is not None]
    fresh = [each.uid for each in responses if each.finish_reason is None and _has_begun(rows[each.uid])]
    fresh += [each.uid for each in read if each.end_of_segment and each.progress[0] == rows[each.uid].fork]
    if fresh:
        for caches, tokens in generator.extract_cache(fresh).values():
            prefixes.put(tokens, caches)
    for response in ended:
        prefixes.put(response.all_tokens, response.prompt_cache)
    return bool(fresh or ended)


def _has_begun(row: Row) -> bool:
    """Return whether the first token of a text has come, whose prompt is worth sharing."""
    return len(row.written) == 1 and worth_sharing(len(row.work.prompt) - row.cached_tokens) > 0
