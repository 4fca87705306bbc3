"""Generates many texts at once: the loop around mlx-lm's BatchGenerator on the engine thread.

One step gives every row its next token. A step puts the next one into the thread's queue, so what came in
meanwhile (new rows, removals) happens between two steps, in order.
"""

import asyncio
import gc
import time
import traceback
from collections import deque
from collections.abc import Collection, Iterable
from functools import partial

import mlx.core as mx
import structlog
from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch

from actors.engines.text_grammar import Constraint
from actors.engines.text_growth import Growth
from actors.engines.text_logprobs import Scores, read_scores
from actors.engines.text_model import TextLimits, TextModel
from actors.engines.text_prefix import Prefix, PrefixCache, default_bytes
from actors.engines.text_prefix_files import PrefixFiles
from actors.engines.text_progress import Progress
from actors.engines.text_prompt import TextWork
from actors.engines.text_sampling import Penalties, Sampling, logits_processors, sampler
from actors.engines.text_speculative import Alone, Draft
from actors.engines.thread import EngineThread
from bus.errors import Code, Failure, LostError, RefusedError
from bus.frames import Prefill
from bus.messages.chat import FinishReason

log = structlog.get_logger()

_MAX_FAULTS = 3
_FAULT_WINDOW = 60.0

# Tokens read; a shorter prompt is kept only when its row ends.
_WORTH_SHARING = 64


class Row:
    """One text being generated. Lives on the event loop; `uid`, `fork` and `constraint` belong to the engine thread.

    `cached_tokens` of the prompt were known; it is right once a token has come. `prefill` is how much was read.
    """

    def __init__(self, work: TextWork) -> None:
        self.work = work
        self.constraint = None if work.grammar is None else Constraint(work.grammar)
        self.uid = -1
        # So much of what is to be read is kept when it was read; 0 is nothing.
        self.fork = 0
        self.cached_tokens = 0
        self.prefill = Prefill(done=0, total=len(work.prompt))
        # One for each token that `take` returns, if they were asked for.
        self.scores: deque[Scores] = deque()
        self.is_draftable = work.is_plain
        self._tokens: list[int] = []
        self._finish_reason: FinishReason | None = None
        self._failure: Failure | None = None
        self._arrival: asyncio.Future[None] | None = None

    async def take(self) -> tuple[list[int], FinishReason | None]:
        """Wait for tokens and return all that have come, with the reason if they are the last.

        Without tokens there is news in `prefill`. Raises what the row failed with.
        """
        if not self._tokens and self._failure is None:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        if self._failure is not None:
            kind = LostError if self._failure.code == "crashed" else RefusedError
            raise kind(self._failure.code, self._failure.message)
        tokens, self._tokens = self._tokens, []
        return tokens, self._finish_reason

    def put(self, token: int, finish_reason: FinishReason | None) -> None:
        """Hand over one token."""
        self._tokens.append(token)
        self._finish_reason = finish_reason
        self._wake()

    def tell(self, prefill: Prefill) -> None:
        """Hand over how much was read."""
        self.prefill = prefill
        self._wake()

    def fail(self, failure: Failure) -> None:
        """End with `failure`."""
        self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


class TextBatch:
    """The rows that are being generated, as many at once as `max_batch` and the memory allow; others wait their turn.

    `add` and `remove` are called on the event loop; `open` and `close` are jobs for the engine thread.
    """

    def __init__(
        self, model: TextModel, limits: TextLimits, thread: EngineThread, files: PrefixFiles | None = None
    ) -> None:
        self._model = model.model
        self._stop_ids = frozenset(model.tokenizer.eos_token_ids)
        self._limits = limits
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._generator: BatchGenerator | None = None
        self._rows: dict[int, Row] = {}
        # For memory. Nobody overtakes the first, or a long text would wait for ever.
        self._waiting: deque[Row] = deque()
        self._kv_cost = model.kv_cost
        self._kv_bytes = model.kv_bytes
        self._growth = Growth(model.kv_bytes)
        self._prefixes = PrefixCache(default_bytes() if limits.prefix_bytes is None else limits.prefix_bytes)
        self._prefix_files = files if self._prefixes.is_on else None
        self._draft = model.draft
        # The only row, while it is written with the draft model and not by the generator.
        self._alone: tuple[Row, Alone] | None = None
        self._is_stepping = False
        self._progress = Progress(limits.progress_interval)
        self._faults: deque[float] = deque(maxlen=_MAX_FAULTS)
        self.is_broken = False

    def open(self) -> None:
        """Build the generator and, unless the limits say no, run every kind of request once: none waits for kernels."""
        self._generator = self._build()
        if self._limits.warmup:
            self._warm_up(self._generator)
        if self._prefix_files is not None:
            self._prefix_files.load(self._prefixes)

    def close(self) -> None:
        """Refuse the unfinished rows as `restarting` and free the model."""
        self._fail(self._drop_rows(), "restarting", "The model is being unloaded.")
        self._drop_generator()
        if self._prefix_files is not None:
            self._prefix_files.save(self._prefixes)
        self._prefixes.trim_to(0)
        del self._model, self._draft
        gc.collect()
        mx.clear_cache()

    def add(self, row: Row) -> None:
        """Start generating `row` with the next step."""
        self._thread.submit(partial(self._add, row), partial(self._fail_added, row))

    def remove(self, row: Row) -> None:
        """Stop generating `row` before the next step. Does nothing if it has ended."""
        self._thread.submit(partial(self._remove, row), self._recover)

    def _add(self, row: Row) -> None:
        if self._generator is None:
            self._fail((row,), "restarting", "The model is being unloaded.")
            return
        self._rejoin(self._generator)
        if self._waiting or not self._has_room(self._generator, row):
            self._waiting.append(row)
            return
        self._enter(self._generator, row)
        if not self._is_stepping:
            self._is_stepping = True
            self._thread.submit(self._step, self._recover)

    def _has_room(self, generator: BatchGenerator, row: Row) -> bool:
        # Alone it fits, or it would have been refused.
        return not self._rows or self._need(generator, row) <= self._kv_bytes

    def _need(self, generator: BatchGenerator, *more: Row) -> int:
        """Return the bytes that the rows take with `more`, now or when they have grown as far as is expected."""
        count = len(self._rows) + len(more)
        longest = max((row.work.reserved for row in (*self._rows.values(), *more)), default=0)
        now = int(generator.prompt_cache_nbytes) // max(len(self._rows), 1) * count
        drafted = self._draft.kv_cost.of(1, longest) if self._draft else 0
        return max(self._kv_cost.of(count, longest), now) + drafted

    def _enter(self, generator: BatchGenerator, row: Row) -> None:
        prefix = self._prefixes.find(row.work.prompt)
        row.cached_tokens = prefix.length if prefix else 0
        self._prefixes.trim_to(self._kv_bytes - self._need(generator, row))
        row.fork = _worth(self._prefixes.fork(row.work.prompt) - row.cached_tokens)
        row.uid = _insert(generator, row.work, row.work.prompt, prefix, row.constraint, row.fork)
        self._rows[row.uid] = row

    def _let_in(self, generator: BatchGenerator) -> None:
        while self._waiting and self._has_room(generator, self._waiting[0]):
            # It leaves the queue afterwards, so that a fault in here finds it.
            self._enter(generator, self._waiting[0])
            self._waiting.popleft()

    def _remove(self, row: Row) -> None:
        if row in self._waiting:
            self._waiting.remove(row)
        # A rebuilt generator counts from 0 again, so the number alone does not say which row it is.
        if self._generator is not None and self._rows.get(row.uid) is row:
            del self._rows[row.uid]
            if self._alone is not None:
                self._end_alone()
            # Who leaves often comes back with the same prompt, and a stop string ends a row in this way too.
            left = self._generator.remove([row.uid], return_prompt_caches=self._prefixes.is_on)
            for caches, tokens in left.values():
                self._prefixes.put(tokens, caches)
            self._prefixes.trim_to(self._kv_bytes - self._need(self._generator))
        if self._generator is not None:
            self._let_in(self._generator)

    def _step(self) -> None:
        if self._generator is None or not self._rows:
            self._is_stepping = False
            return
        if self._alone is not None:
            self._step_alone(self._generator, *self._alone)
            self._thread.submit(self._step, self._recover)
            return
        read, responses = self._generator.next()
        responses = [each for each in responses if not self._has_left_grammar(self._generator, each.uid)]
        if self._growth.is_due():
            reserved = {uid: row.work.reserved for uid, row in self._rows.items()}
            self._growth.bound(self._generator, responses, reserved, self._prefixes)
        tokens = [(self._rows[each.uid], each.token, each.finish_reason) for each in responses]
        for response in responses:
            self._tell_scores(response)
            if response.finish_reason is not None:
                del self._rows[response.uid]
        if tokens:
            self._loop.call_soon_threadsafe(_hand_over, tokens)
        if read:
            self._tell_progress(read)
        # After the tokens are on their way.
        self._keep(self._generator, read, responses)
        if self._waiting:
            self._let_in(self._generator)
        elif self._draft is not None and len(self._rows) == 1 and tokens:
            self._go_alone(self._generator, self._draft)
        self._thread.submit(self._step, self._recover)

    def _go_alone(self, generator: BatchGenerator, draft: Draft) -> None:
        """Take the only row out of the batch, to write it with the draft model, if it can be."""
        (row,) = self._rows.values()
        if not row.is_draftable:
            return
        ((caches, tokens),) = generator.remove([row.uid], return_prompt_caches=True).values()
        left = row.work.max_tokens - (len(tokens) - len(row.work.prompt))
        self._alone = row, Alone(self._model, draft, tokens, caches, left, sampler(row.work.sampling))

    def _step_alone(self, generator: BatchGenerator, row: Row, alone: Alone) -> None:
        with mx.stream(generator.stream):
            tokens = alone.write(self._stop_ids)
        ended: FinishReason | None = "stop" if tokens[-1] in self._stop_ids else None if alone.left else "length"
        told = [(row, token, ended if at == len(tokens) else None) for at, token in enumerate(tokens, 1)]
        self._loop.call_soon_threadsafe(_hand_over, told)
        if ended is not None:
            del self._rows[row.uid]
            self._end_alone()
        elif not alone.is_worthwhile:
            row.is_draftable = False
            self._rejoin(generator)

    def _rejoin(self, generator: BatchGenerator) -> None:
        """Put the row that is alone back into the batch, if there is one."""
        if self._alone is None:
            return
        (row, alone), self._alone = self._alone, None
        alone.end()
        del self._rows[row.uid]
        prefix = Prefix(len(alone.tokens) - 1, alone.caches)
        row.uid = _insert(generator, row.work, alone.tokens, prefix)
        self._rows[row.uid] = row

    def _end_alone(self) -> None:
        if self._alone is not None:
            (_, alone), self._alone = self._alone, None
            alone.end()
            self._prefixes.put(alone.tokens[:-1], alone.caches)

    def _tell_scores(self, response: GenerationBatch.Response) -> None:
        row = self._rows[response.uid]
        if row.work.top_logprobs is not None:
            scores = read_scores(response.logprobs, response.token, row.work.top_logprobs)
            self._loop.call_soon_threadsafe(row.scores.append, scores)

    def _tell_progress(self, read: list[PromptProcessingBatch.Response]) -> None:
        for each in self._progress.due(read, time.monotonic()):
            row = self._rows[each.uid]
            done = row.cached_tokens + each.progress[0]
            self._loop.call_soon_threadsafe(row.tell, Prefill(done=done, total=len(row.work.prompt)))

    def _has_left_grammar(self, generator: BatchGenerator, uid: int) -> bool:
        """End a row whose grammar became too much to follow, for what it says now is not kept to it."""
        row = self._rows[uid]
        if row.constraint is None or not (error := row.constraint.error):
            return False
        del self._rows[uid]
        generator.remove([uid])
        self._fail((row,), "invalid_request", f"The grammar could not be followed any further: {error}")
        return True

    def _keep(
        self,
        generator: BatchGenerator,
        read: list[PromptProcessingBatch.Response],
        responses: list[GenerationBatch.Response],
    ) -> None:
        """Keep the long prompts that were just read, for those who come meanwhile, and the texts that have ended.

        Of a prompt that parts from an earlier one, what they have in common is kept too.
        """
        if not self._prefixes.is_on:
            return
        fresh = [each.uid for each in read if each.end_of_prompt and _worth(each.progress[1])]
        fresh += [each.uid for each in read if each.end_of_segment and each.progress[0] == self._rows[each.uid].fork]
        if fresh:
            for caches, tokens in generator.extract_cache(fresh).values():
                self._prefixes.put(tokens, caches)
        ended = [response for response in responses if response.finish_reason is not None]
        for response in ended:
            self._prefixes.put(response.all_tokens, response.prompt_cache)
        if fresh or ended:
            self._prefixes.trim_to(self._kv_bytes - self._need(generator))

    def _recover(self, error: Exception) -> None:
        """Give up all rows and the generator, whose state nobody knows after an error."""
        self._is_stepping = False
        if isinstance(error, LostError):
            # The thread has ended, and with it everything but those who wait for their rows.
            self._fail(self._drop_rows(), error.code, str(error))
            return
        _log(error)
        self._faults.append(time.monotonic())
        # Before the rows learn of the fault, so that whoever tries again meets the truth.
        self.is_broken = is_broken(self._faults)
        self._fail(self._drop_rows(), "internal_error", "The model failed while it generated this text.")
        self._prefixes.trim_to(0)
        self._drop_generator()
        self._generator = self._build()

    def _drop_rows(self) -> list[Row]:
        rows = [*self._rows.values(), *self._waiting]
        self._rows = {}
        self._alone = None
        self._waiting.clear()
        return rows

    def _fail_added(self, row: Row, error: Exception) -> None:
        if isinstance(error, LostError):
            self._fail((row,), error.code, str(error))
            return
        _log(error)
        self._fail((row,), "internal_error", "The model could not begin this text.")

    def _fail(self, rows: Iterable[Row], code: Code, message: str) -> None:
        failure = Failure(code=code, message=message)
        for row in rows:
            self._loop.call_soon_threadsafe(row.fail, failure)

    def _warm_up(self, generator: BatchGenerator) -> None:
        everything = Sampling(temperature=0.5, top_p=0.9, top_k=1, min_p=0.1)
        penalties = Penalties(presence=0.1, frequency=0.1, repetition=1.1, bias=((0, 0.1),))
        plain = _warm_up_work(Sampling(temperature=0), Penalties())
        for group in (
            (plain,),
            (_warm_up_work(everything, penalties),),
            (plain, _warm_up_work(everything, penalties, seed=1)),
        ):
            waiting = {_insert(generator, work, work.prompt) for work in group}
            while waiting:
                _, responses = generator.next()
                waiting -= {response.uid for response in responses if response.finish_reason}

    def _build(self) -> BatchGenerator:
        limits = self._limits
        # Small pieces of a long prompt let the other rows step in between. A GPU fills only with larger ones.
        step = limits.prefill_step or (512 if mx.metal.is_available() else 256)
        return BatchGenerator(
            self._model,
            stop_tokens=[[token] for token in self._stop_ids],
            completion_batch_size=limits.max_batch,
            prefill_batch_size=min(limits.prefill_batch, limits.max_batch),
            prefill_step_size=step,
        )

    def _drop_generator(self) -> None:
        if self._generator is not None:
            self._generator.close()
            self._generator = None


def _log(error: Exception) -> None:
    # As text and not as exc_info: some renderers print the variables too, and with them a prompt.
    log.error("engine.failed", traceback="".join(traceback.format_exception(error)))


def is_broken(faults: Collection[float]) -> bool:
    """Say whether the last faults, given by their times, came too fast for going on."""
    return len(faults) >= _MAX_FAULTS and max(faults) - min(faults) <= _FAULT_WINDOW


def _worth(tokens: int) -> int:
    """Return `tokens`, or 0 if having read them is not worth sharing."""
    return tokens if tokens >= _WORTH_SHARING else 0


def _insert(
    generator: BatchGenerator,
    work: TextWork,
    tokens: list[int],
    prefix: Prefix | None = None,
    constraint: Constraint | None = None,
    fork: int = 0,
) -> int:
    """Have `tokens` continued: the prompt of `work`, and what was written already.

    They are known up to `prefix`; the reading stops once, `fork` tokens after that.
    """
    known = prefix.length if prefix else 0
    processors = logits_processors(work.penalties, len(work.prompt))
    if constraint is not None:
        # The last, so that nothing raises what it forbids.
        processors.append(constraint)
    unread = tokens[known:]
    (uid,) = generator.insert_segments(
        [[unread[:fork], unread[fork:]]],
        caches=[prefix.caches] if prefix else None,
        all_tokens=[tokens[:known]],
        max_tokens=[work.max_tokens - (len(tokens) - len(work.prompt))],
        samplers=[sampler(work.sampling, work.seed)],
        logits_processors=[processors],
    )
    return int(uid)


def _warm_up_work(sampling: Sampling, penalties: Penalties, seed: int | None = None) -> TextWork:
    return TextWork(prompt=[0, 0, 0, 0], max_tokens=4, sampling=sampling, penalties=penalties, seed=seed, stop=())


def _hand_over(tokens: list[tuple[Row, int, FinishReason | None]]) -> None:
    for row, token, finish_reason in tokens:
        row.put(token, finish_reason)
