"""Generates many texts at once: the loop around mlx-lm's BatchGenerator on the engine thread.

One step gives every row its next token. A step puts the next one into the thread's queue, so what came in
meanwhile (new rows, removals) happens between two steps, in order.
"""

import asyncio
import gc
import traceback
from collections import deque
from functools import partial

import mlx.core as mx
import structlog
from mlx_lm.generate import BatchGenerator, GenerationBatch

from actors.engines.text_delivery import Delivery, Token
from actors.engines.text_draft import Draft
from actors.engines.text_generator import build, insert, try_out, warm_up
from actors.engines.text_growth import Growth
from actors.engines.text_keep import keep, worth_sharing
from actors.engines.text_model import TextLimits, TextModel
from actors.engines.text_prefix import PrefixCache, default_bytes
from actors.engines.text_prefix_files import PrefixFiles
from actors.engines.text_recovery import judge
from actors.engines.text_row import Row
from actors.engines.text_speculative import Alone
from actors.engines.thread import EngineThread
from bus.errors import LostError

log = structlog.get_logger()

_FAILED = "The model failed while it generated this text."


class TextBatch:
    """The rows that are being generated, as many at once as `max_batch` and the memory allow; others wait their turn.

    `add` and `remove` are called on the event loop; `open` and `close` are jobs for the engine thread.
    """

    def __init__(
        self, model: TextModel, limits: TextLimits, thread: EngineThread, files: PrefixFiles | None = None
    ) -> None:
        self._model = model.model
        self._stop_tokens = frozenset(model.tokenizer.eos_token_ids)
        self._limits = limits
        self._thread = thread
        self._delivery = Delivery(asyncio.get_running_loop(), limits.progress_interval)
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
        self._alone: Alone | None = None
        self._is_stepping = False
        self.is_broken = False

    def open(self) -> None:
        """Build the generator and, unless the limits say no, run every kind of request once: none waits for kernels."""
        self._generator = self._build()
        if self._limits.warmup:
            warm_up(self._generator)
        if self._prefix_files is not None:
            self._prefix_files.load(self._prefixes)

    def close(self) -> None:
        """Refuse the unfinished rows as `restarting` and free the model."""
        self._delivery.failure(self._drop_rows(), "restarting", "The model is being unloaded.")
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
            self._delivery.failure((row,), "restarting", "The model is being unloaded.")
            return
        self._rejoin()
        if self._waiting or not self._has_room(self._generator, row):
            self._waiting.append(row)
            return
        self._enter(self._generator, row)
        self._go_on()

    def _go_on(self) -> None:
        if not self._is_stepping and self._rows:
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
        prefix = self._prefixes.find(row.tokens)
        known = prefix.length if prefix else 0
        self._prefixes.trim_to(self._kv_bytes - self._need(generator, row))
        if not row.written:
            row.cached_tokens = known
            row.fork = worth_sharing(self._prefixes.fork(row.work.prompt) - known)
        insert(generator, row, prefix)
        self._rows[row.uid] = row

    def _let_in(self, generator: BatchGenerator) -> None:
        while self._waiting and self._has_room(generator, self._waiting[0]):
            row = self._waiting.popleft()
            try:
                self._enter(generator, row)
            except Exception as error:  # noqa: BLE001 - whatever it raises is its own
                self._fail_added(row, error)

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
            self._step_alone(self._alone)
        else:
            self._step_together(self._generator)
        self._thread.submit(self._step, self._recover)

    def _step_together(self, generator: BatchGenerator) -> None:
        read, responses = generator.next()
        responses = [each for each in responses if not self._has_left_grammar(generator, each.uid)]
        if self._growth.is_due():
            reserved = {uid: row.work.reserved for uid, row in self._rows.items()}
            self._growth.bound(generator, responses, reserved, self._prefixes)
        told: list[Token] = []
        for response in responses:
            row = self._rows[response.uid]
            row.written.append(response.token)
            self._delivery.scores(row, response)
            told.append(Token(row, response.token, response.finish_reason))
            if response.finish_reason is not None:
                del self._rows[response.uid]
        self._delivery.tokens(told)
        self._delivery.progress(self._rows, read)
        # After the tokens are on their way.
        if keep(self._prefixes, generator, self._rows, read, responses):
            self._prefixes.trim_to(self._kv_bytes - self._need(generator))
        if self._waiting:
            self._let_in(generator)
        elif self._draft is not None and len(self._rows) == 1:
            self._go_alone(generator, self._draft, responses)

    def _go_alone(self, generator: BatchGenerator, draft: Draft, responses: list[GenerationBatch.Response]) -> None:
        """Have the only row written with the draft model, if it can be, and if it is past its prompt."""
        (row,) = self._rows.values()
        if row.is_draftable and any(each.uid == row.uid for each in responses):
            self._alone = Alone(row, generator, self._model, draft, self._stop_tokens)

    def _step_alone(self, alone: Alone) -> None:
        told = alone.write()
        self._delivery.tokens(told)
        row, _, reason = told[-1]
        if reason is not None:
            del self._rows[row.uid]
            self._end_alone()
        elif not alone.is_worthwhile:
            row.is_draftable = False
            self._rejoin()

    def _rejoin(self) -> None:
        """Put the row that is written alone back into the batch, if there is one."""
        if self._alone is None or self._generator is None:
            return
        alone, self._alone = self._alone, None
        del self._rows[alone.row.uid]
        insert(self._generator, alone.row, alone.end())
        self._rows[alone.row.uid] = alone.row

    def _end_alone(self) -> None:
        if self._alone is not None:
            alone, self._alone = self._alone, None
            known = alone.end()
            self._prefixes.put(alone.row.tokens[: known.length], known.caches)

    def _has_left_grammar(self, generator: BatchGenerator, uid: int) -> bool:
        """End a row whose grammar became too much to follow, for what it says now is not kept to it."""
        row = self._rows[uid]
        if row.constraint is None or not (error := row.constraint.error):
            return False
        del self._rows[uid]
        generator.remove([uid])
        self._delivery.failure((row,), "invalid_request", f"The grammar could not be followed any further: {error}")
        return True

    def _recover(self, error: Exception) -> None:
        """Begin anew with a generator of known state, and with the rows that are not at fault."""
        self._is_stepping = False
        if isinstance(error, LostError):
            # The thread has ended, and with it everything but those who wait for their rows.
            self._delivery.failure(self._drop_rows(), error.code, str(error))
            return
        _log(error)
        rows, self._rows, self._alone = [*self._rows.values()], {}, None
        self._prefixes.trim_to(0)
        self._drop_generator()
        self._generator = self._build()
        if not self._is_sound(self._generator):
            # Before the rows learn of it, so that whoever tries again meets the truth.
            self.is_broken = True
            self._delivery.failure([*rows, *self._drop_rows()], "internal_error", _FAILED)
            return
        verdict = judge(rows, self._build, self._prefixes, error)
        for row, fault in verdict.failed:
            _log(fault)
            self._delivery.failure((row,), "internal_error", _FAILED)
        for row in verdict.sound:
            self._enter(self._generator, row)
        self._let_in(self._generator)
        self._go_on()

    def _is_sound(self, generator: BatchGenerator) -> bool:
        try:
            try_out(generator)
        except Exception as error:  # noqa: BLE001 - whatever it is, the model raises it for everyone
            _log(error)
            return False
        return True

    def _drop_rows(self) -> list[Row]:
        rows = [*self._rows.values(), *self._waiting]
        self._rows = {}
        self._alone = None
        self._waiting.clear()
        return rows

    def _fail_added(self, row: Row, error: Exception) -> None:
        if isinstance(error, LostError):
            self._delivery.failure((row,), error.code, str(error))
            return
        _log(error)
        self._delivery.failure((row,), "internal_error", "The model could not begin this text.")

    def _build(self) -> BatchGenerator:
        return build(self._model, self._stop_tokens, self._limits)

    def _drop_generator(self) -> None:
        if self._generator is not None:
            self._generator.close()
            self._generator = None


def _log(error: Exception) -> None:
    """Log `error`, and let go of what its frames hold: the caches of a whole batch."""
    # As text and not as exc_info: some renderers print the variables too, and with them a prompt.
    log.error("engine.failed", traceback="".join(traceback.format_exception(error)))
    traceback.clear_frames(error.__traceback__)
