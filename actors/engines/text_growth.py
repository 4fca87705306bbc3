"""Ends texts that have grown, together, beyond the memory: those without `max_tokens` may outgrow what was reserved."""

from collections.abc import Mapping

from mlx_lm.generate import BatchGenerator, GenerationBatch

from actors.engines.text_prefix import PrefixCache

# Steps from one look to the next: mlx-lm's caches grow by 256 tokens at a time.
_LOOK_EVERY = 64


class Growth:
    """Keeps the rows of a batch within `kv_bytes`, or at most one step of growth beyond them."""

    def __init__(self, kv_bytes: int) -> None:
        self._kv_bytes = kv_bytes
        self._steps = 0

    def is_due(self) -> bool:
        """Count a step, and say whether it is time to look."""
        self._steps += 1
        return self._steps % _LOOK_EVERY == 0

    def bound(
        self,
        generator: BatchGenerator,
        responses: list[GenerationBatch.Response],
        reserved: Mapping[int, int],
        kept: PrefixCache,
    ) -> None:
        """Make the rest fit: what is `kept` of earlier texts gives way first, then the longest texts end.

        Their responses then say so. A text ends only if it has more tokens than were `reserved` for it, by uid.
        """
        kept.trim_to(self._kv_bytes - int(generator.prompt_cache_nbytes))
        if generator.prompt_cache_nbytes <= self._kv_bytes:
            return
        running = {each.uid: each for each in responses if each.finish_reason is None}
        # mlx is lazy: this asks for the tokens and copies no cache.
        lengths = {uid: len(tokens) for uid, (_, tokens) in generator.extract_cache(running).items()}
        outgrown = sorted((uid for uid in lengths if lengths[uid] > reserved[uid]), key=lengths.__getitem__)
        while outgrown and generator.prompt_cache_nbytes > self._kv_bytes:
            response = running[outgrown.pop()]
            left = generator.remove([response.uid], return_prompt_caches=True)
            response.prompt_cache, response.all_tokens = left[response.uid]
            response.finish_reason = "length"
