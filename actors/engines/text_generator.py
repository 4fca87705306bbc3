"""mlx-lm's BatchGenerator: built, given rows, and run once with each kind of request. All on the engine thread."""

from collections.abc import Collection

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.generate import BatchGenerator

from actors.engines.text_grammar import Constraint
from actors.engines.text_model import TextLimits
from actors.engines.text_prefix import Prefix
from actors.engines.text_prompt import TextWork
from actors.engines.text_row import Row
from actors.engines.text_sampling import Penalties, Sampling, logits_processors, sampler


def build(model: Module, stop_tokens: Collection[int], limits: TextLimits) -> BatchGenerator:
    """Return an empty generator."""
    # Small pieces of a long prompt let the other rows step in between. A GPU fills only with larger ones.
    step = limits.prefill_step or (512 if mx.metal.is_available() else 256)
    return BatchGenerator(
        model,
        stop_tokens=[[token] for token in stop_tokens],
        completion_batch_size=limits.max_batch,
        prefill_batch_size=min(limits.prefill_batch, limits.max_batch),
        prefill_step_size=step,
    )


def insert(generator: BatchGenerator, row: Row, prefix: Prefix | None = None) -> None:
    """Have `row` continued from where it is, prompt or text, of which `prefix` is known."""
    work, tokens = row.work, row.tokens
    known = prefix.length if prefix else 0
    processors = logits_processors(work.penalties, len(work.prompt))
    if work.grammar is not None:
        row.constraint = Constraint(work.grammar, len(work.prompt))
        # The last, so that nothing raises what it forbids.
        processors.append(row.constraint)
    unread = tokens[known:]
    (uid,) = generator.insert_segments(
        [[unread[: row.fork], unread[row.fork :]]],
        caches=[prefix.caches] if prefix else None,
        all_tokens=[tokens[:known]],
        max_tokens=[work.max_tokens - len(row.written)],
        samplers=[sampler(work.sampling, work.seed, len(row.written))],
        logits_processors=[processors],
    )
    row.uid = int(uid)


def warm_up(generator: BatchGenerator) -> None:
    """Run every kind of request once: none waits for kernels."""
    everything = Sampling(temperature=0.5, top_p=0.9, top_k=1, min_p=0.1)
    penalties = Penalties(presence=0.1, frequency=0.1, repetition=1.1, bias=((0, 0.1),))
    plain = _work(Sampling(temperature=0), Penalties())
    groups = (
        (plain,),
        (_work(everything, penalties),),
        (plain, _work(everything, penalties, seed=1)),
    )
    for group in groups:
        _run(generator, group)


def try_out(generator: BatchGenerator) -> None:
    """Run the plainest of requests. Raises what the model raises."""
    _run(generator, (_work(Sampling(temperature=0), Penalties()),))


def _run(generator: BatchGenerator, group: Collection[TextWork]) -> None:
    rows = [Row(work) for work in group]
    for row in rows:
        insert(generator, row)
    running = {row.uid for row in rows}
    while running:
        _, responses = generator.next()
        running -= {response.uid for response in responses if response.finish_reason}


def _work(sampling: Sampling, penalties: Penalties, seed: int | None = None) -> TextWork:
    return TextWork(prompt=[0, 0, 0, 0], max_tokens=4, sampling=sampling, penalties=penalties, seed=seed, stop=())
