"""Trains fusion-toy from nothing and writes it as an mlx-lm folder.

    python -m models.train --out DIR [--minutes N | --steps N] [--seed N] [--rate R] [--resume DIR]

The same seed and the same number of steps give the same weights on the same machine.
"""

from actors.engines.blas import prepare_blas

prepare_blas()

import argparse  # noqa: E402 - everything after the BLAS, which must come before mlx
import random  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import NamedTuple  # noqa: E402

import mlx.core as mx  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
import numpy as np  # noqa: E402
from mlx import nn  # noqa: E402
from mlx.nn.utils import value_and_grad  # noqa: E402
from mlx_lm.models.qwen3 import Model, ModelArgs  # noqa: E402

from models import corpus, folder  # noqa: E402

BATCH_TOKENS = 1024
WARMUP = 0.03
ROWS = 60_000


class Row(NamedTuple):
    """A conversation as token ids, and which of them the model has to write itself."""

    ids: list[int]
    is_answer: list[bool]


class Batch(NamedTuple):
    """Padded inputs, the flat positions that count for the loss, and the tokens expected there."""

    inputs: mx.array
    positions: mx.array
    targets: mx.array


def answers(ids: list[int], start: list[int], end: int) -> list[bool]:
    """Mark the tokens after each `start` up to and with the next `end`."""
    marks, is_inside = [], False
    for at, token in enumerate(ids):
        marks.append(is_inside)
        if token == end:
            is_inside = False
        if ids[at + 1 - len(start) : at + 1] == start:
            is_inside = True
    return marks


def rows(chats: list[corpus.Chat], tokenizer: folder.Tokenizer) -> list[Row]:
    """Return the conversations as rows; those that exceed the context are left out."""
    start = tokenizer.encode("<|im_start|>assistant\n")
    end = tokenizer.token_to_id("<|im_end|>")
    encoded = [tokenizer.encode(folder.render(chat.messages, chat.tools)) for chat in chats]
    return [Row(ids, answers(ids, start, end)) for ids in encoded if len(ids) <= folder.CONTEXT]


def batch(members: list[Row]) -> Batch:
    """Pad rows of similar length. Attention needs no mask: what stands after a row cannot change it."""
    width = max(len(row.ids) for row in members) - 1
    inputs = np.zeros((len(members), width), dtype=np.int32)
    positions, targets = [], []
    for n, row in enumerate(members):
        inputs[n, : len(row.ids) - 1] = row.ids[:-1]
        at = [i - 1 for i, is_answer in enumerate(row.is_answer) if is_answer]
        positions += [n * width + i for i in at]
        targets += [row.ids[i + 1] for i in at]
    return Batch(mx.array(inputs), mx.array(positions), mx.array(targets))


def epoch(data: list[Row], rng: random.Random) -> Iterator[list[Row]]:
    """Yield every row once, in groups of about BATCH_TOKENS tokens and similar length."""
    order = sorted(data, key=lambda row: (len(row.ids), rng.random()))
    groups: list[list[Row]] = [[]]
    for row in order:
        if groups[-1] and (len(groups[-1]) + 1) * len(row.ids) > BATCH_TOKENS:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    yield from groups


def endless(data: list[Row], rng: random.Random) -> Iterator[list[Row]]:
    """Yield epoch after epoch."""
    while True:
        yield from epoch(data, rng)


def loss(model: Model, given: Batch) -> mx.array:
    """Return the mean cross entropy over the answers; only their logits are computed."""
    hidden = model.model(given.inputs)
    hidden = hidden.reshape(-1, hidden.shape[-1])[given.positions]
    logits = model.model.embed_tokens.as_linear(hidden)
    return nn.losses.cross_entropy(logits, given.targets, reduction="mean")


def rate(progress: float) -> float:
    """Return the fraction of the highest learning rate at `progress`, 0 to 1: a linear rise, then a cosine to zero."""
    if progress < WARMUP:
        return (progress + 0.002) / WARMUP
    return 0.5 * (1 + float(np.cos(np.pi * (progress - WARMUP) / (1 - WARMUP))))


class Limit:
    """Ends the training after minutes or after steps, whichever is given."""

    def __init__(self, minutes: float, steps: int | None) -> None:
        self._start = time.monotonic()
        self._seconds = minutes * 60
        self._steps = steps

    def seconds(self) -> float:
        """Return the time since the start."""
        return time.monotonic() - self._start

    def progress(self, step: int) -> float:
        """Return how much is done: 1 or more is the end."""
        return step / self._steps if self._steps else self.seconds() / self._seconds


def fit(model: Model, data: list[Row], limit: Limit, *, seed: int, peak: float) -> dict[str, float]:
    """Train `model` in place until `limit`; return what the model card says about it."""
    optimizer = optim.AdamW(learning_rate=peak, betas=[0.9, 0.98], weight_decay=0.05)
    step_of = value_and_grad(model, loss)
    step, seen, smooth = 0, 0, 0.0
    for members in endless(data, random.Random(seed)):
        progress = limit.progress(step)
        if progress >= 1:
            break
        optimizer.learning_rate = mx.array(peak * rate(progress))
        value, gradients = step_of(model, batch(members))
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)  # type: ignore[no-untyped-call] # mlx has no types here
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, value)
        step, seen = step + 1, seen + sum(len(row.ids) for row in members)
        smooth = value.item() if step == 1 else 0.97 * smooth + 0.03 * value.item()
        if step % 50 == 0:
            report(step, smooth, seen, limit)
    return {"steps": step, "tokens": seen, "loss": round(smooth, 4), "seconds": round(limit.seconds())}


def report(step: int, value: float, seen: int, limit: Limit) -> None:
    """Print one line of progress."""
    seconds, progress = limit.seconds(), limit.progress(step)
    left = seconds / progress * (1 - progress)
    print(f"step {step}  loss {value:.4f}  {seen / seconds:.0f} tokens/s  {left:.0f} s left", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, default=25.0, help="wall time to train")
    parser.add_argument("--steps", type=int, help="train exactly so many steps instead")
    parser.add_argument("--resume", type=Path, help="folder to go on from, instead of from nothing")
    parser.add_argument("--rate", type=float, default=2.5e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    mx.random.seed(options.seed)
    chats = corpus.chats(options.seed, ROWS)
    tokenizer = folder.tokenizer(options.resume) if options.resume else folder.train_tokenizer(chats[:20_000])
    data = rows(chats, tokenizer)
    model = Model(ModelArgs.from_dict(folder.config(tokenizer)))
    if options.resume:
        model.load_weights(folder.weights(options.resume))
    print(f"{len(data)} conversations, {sum(len(row.ids) for row in data)} tokens", flush=True)
    facts = fit(model, data, Limit(options.minutes, options.steps), seed=options.seed, peak=options.rate)
    folder.write(options.out, model, tokenizer)
    print(facts, flush=True)


if __name__ == "__main__":
    main()
