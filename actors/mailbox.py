"""The mailbox before an actor: bounded, in order of arrival, and open about where each request stands."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Generic, Protocol, TypeVar

import msgspec

from bus.errors import BusError, RefusedError
from bus.frames import Prefill, Status
from bus.messages.presence import Load
from bus.serve import Caller

RequestT = TypeVar("RequestT")
RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
WorkT = TypeVar("WorkT")
ReplyT = TypeVar("ReplyT")
ReplyT_co = TypeVar("ReplyT_co", covariant=True)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests run at once, how many wait, and for how long (seconds).

    While a request is prepared its asker hears of it each `notice` seconds: who hears nothing takes it for lost.
    """

    concurrency: int = 32
    max_queue: int = 100
    queue_timeout: float = 300.0
    notice: float = 2.0


class Actor(Protocol[RequestT_contra, WorkT, ReplyT_co]):
    """What a mailbox stands before."""

    async def prepare(self, request: RequestT_contra) -> WorkT:
        """Check `request` before it waits. Raises `RefusedError`."""
        ...

    def receive(self, work: WorkT) -> AsyncGenerator[ReplyT_co | Prefill]:
        """Answer, and before that tell how much was read. Closed when the asker leaves."""
        ...


class Finished(msgspec.Struct, Generic[ReplyT], frozen=True, kw_only=True):
    """How one request went. Times in seconds; `first` is None when no piece was given."""

    request_id: str
    operation: str
    outcome: str
    queued: float
    first: float | None
    total: float
    last: ReplyT | None
    key: str | None = None


class Mailbox(Generic[RequestT, WorkT, ReplyT]):
    """Lets in as many requests at once as the actor can batch, and queues or refuses the rest."""

    def __init__(
        self,
        actor: Actor[RequestT, WorkT, ReplyT],
        limits: Limits,
        on_finished: Callable[[Finished[ReplyT]], None],
        instance: str,
        model: str = "",
    ) -> None:
        self._actor = actor
        self._limits = limits
        self._on_finished = on_finished
        self._instance = instance
        self._model = model
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._running = 0
        self._served = 0
        self._refused = 0
        self._has_left = asyncio.Event()

    @property
    def load(self) -> Load:
        """How busy it is."""
        return Load(
            queued=len(self._waiting),
            running=self._running,
            max_queue=self._limits.max_queue,
            concurrency=self._limits.concurrency,
            served=self._served,
            refused=self._refused,
        )

    @property
    def _has_room(self) -> bool:
        return self._running < self._limits.concurrency and not self._waiting

    async def room(self) -> None:
        """Return when a request would run at once: what a worker waits for before it takes a job."""
        while not self._has_room:
            self._has_left.clear()
            await self._has_left.wait()

    async def receive(self, request: RequestT, caller: Caller) -> AsyncGenerator[ReplyT | Status]:
        """Say where the request stands, wait for its turn, then give the actor's answer.

        Raises `RefusedError`: `queue_full` at once, what the actor's `prepare` says before waiting, and
        `queue_timeout` after the limit.
        """
        clock = _Clock()
        outcome, last = "crashed", None
        try:
            self._refuse_if_full()
            async with self._preparing(request) as preparing:
                while not (await asyncio.wait((preparing,), timeout=self._limits.notice))[0]:
                    yield Status(instance=self._instance, position=len(self._waiting) + 1, model=self._model)
                work = preparing.result()
            ticket = self._enter()
            try:
                yield Status(instance=self._instance, position=len(self._waiting), model=self._model)
                if not ticket.done():
                    await self._wait(ticket)
                    yield Status(instance=self._instance, model=self._model)
                clock.start()
                async with aclosing(self._actor.receive(work)) as replies:
                    async for item in replies:
                        if isinstance(item, Prefill):
                            yield Status(instance=self._instance, prefill=item)
                            continue
                        last = item
                        clock.piece()
                        yield last
            finally:
                self._leave(ticket)
            outcome = "completed"
        except BusError as error:
            outcome = error.code
            raise
        except (GeneratorExit, asyncio.CancelledError):
            outcome = "cancelled"
            raise
        finally:
            self._on_finished(clock.finished(caller, outcome, last))

    @asynccontextmanager
    async def _preparing(self, request: RequestT) -> AsyncGenerator[asyncio.Task[WorkT]]:
        """Give the task that prepares `request`, which ends with the block."""
        task = asyncio.create_task(self._actor.prepare(request))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _refuse_if_full(self) -> None:
        if not self._has_room and len(self._waiting) >= self._limits.max_queue:
            self._refused += 1
            raise RefusedError(
                "queue_full",
                f"{self._running} requests are running and {len(self._waiting)} waiting, as many as may. "
                "Ask again shortly, or submit a job, which is never refused for this.",
                retry_after=1,
            )

    def _enter(self) -> asyncio.Future[None]:
        """Return a ticket that is done when the request may run. Others may have come since it was first looked."""
        self._refuse_if_full()
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._has_room:
            self._running += 1
            ticket.set_result(None)
        else:
            self._waiting.append(ticket)
        return ticket

    async def _wait(self, ticket: asyncio.Future[None]) -> None:
        seconds = self._limits.queue_timeout
        try:
            async with asyncio.timeout(seconds):
                # Shielded: a cancelled wait must not cancel a turn that is just being given.
                await asyncio.shield(ticket)
        except TimeoutError as error:
            message = f"The request waited {seconds:g} s for its turn."
            raise RefusedError("queue_timeout", message, retry_after=5) from error

    def _leave(self, ticket: asyncio.Future[None]) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            return
        self._running -= 1
        self._served += 1
        self._has_left.set()
        while self._waiting and self._running < self._limits.concurrency:
            self._running += 1
            self._waiting.popleft().set_result(None)


class _Clock:
    """Reads the times of one request."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._started: float | None = None
        self._first: float | None = None

    def start(self) -> None:
        self._started = time.monotonic()

    def piece(self) -> None:
        if self._first is None:
            self._first = time.monotonic()

    def finished(self, caller: Caller, outcome: str, last: ReplyT | None) -> Finished[ReplyT]:
        now = time.monotonic()
        return Finished(
            request_id=caller.request_id,
            operation=caller.operation,
            outcome=outcome,
            queued=(self._started or now) - self._begun,
            first=self._first - self._begun if self._first else None,
            total=now - self._begun,
            last=last,
            key=caller.key,
        )
