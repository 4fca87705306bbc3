"""The worker beside a model actor: takes jobs from the queue and asks the actor, through the same door as everyone.

Listens on  fusion.wake.*.<model>.*
Owns        which jobs of its model run in this process
Never       takes a job that would have to wait
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from nats.aio.msg import Msg

from actors.attempt import Attempts, WorkerConfig
from actors.priorities import PRIORITIES, Queues
from actors.supervisor import Child
from actors.work import Reach
from bus.blobs import Blobs
from bus.client import Bus
from bus.errors import LostError
from bus.pull import Delivery, Puller, pulling
from bus.streams import ensure_consumer, queue_consumer
from bus.subjects import QUEUE_OF_MODEL, escape, fill, wake_of
from eventlog.events import Priority

log = structlog.get_logger()

_POLL = 2.0


class Worker:
    """Runs the jobs of one model, which `reach` leads to. `drain` may be changed until the worker stops."""

    def __init__(
        self,
        bus: Bus,
        blobs: Blobs,
        model: str,
        instance: str,
        config: WorkerConfig,
        *,
        reach: Reach | None = None,
    ) -> None:
        self._bus = bus
        self._model = model
        self._config = config
        self._attempts = Attempts(bus, blobs, instance, config, reach or (lambda subject: subject(model)))
        self.drain = config.drain
        self._running: set[asyncio.Task[None]] = set()
        self._awake = asyncio.Event()
        self._queues = Queues()
        self._looks_at = 0.0

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._running)

    async def run(self, room: Callable[[], Awaitable[None]]) -> None:
        """Take and run jobs for ever, each when `room` returns. When cancelled, running jobs go back to the queue."""
        for priority in PRIORITIES:
            subject = fill(QUEUE_OF_MODEL, priority, self._model)
            await ensure_consumer(
                self._bus.nc, "JOBS", queue_consumer(self._durable(priority), subject, self._config.ack_wait)
            )
        subscription = await self._bus.nc.subscribe(wake_of(self._model), cb=self._on_wake)
        places = asyncio.Semaphore(self._config.concurrency)
        try:
            async with self._attempts.listening(), pulling(self._bus.nc) as puller, asyncio.TaskGroup() as group:
                try:
                    while True:
                        await places.acquire()
                        await room()
                        task = group.create_task(self._run(await self._next(puller)))
                        self._running.add(task)
                        task.add_done_callback(self._running.discard)
                        task.add_done_callback(lambda _: places.release())
                finally:
                    await subscription.unsubscribe()
                    if self._running:
                        await asyncio.wait(self._running, timeout=self.drain)
        finally:
            log.debug("worker.stopped", model=self._model)

    async def _next(self, puller: Puller) -> Delivery:
        while True:
            self._awake.clear()
            self._look_about()
            with suppress(LostError):  # The server is away; ask again.
                for priority in self._queues.next():
                    self._queues.ask(priority)
                    delivery = await puller.one("JOBS", self._durable(priority))
                    if delivery is not None:
                        self._queues.stock(priority)
                        return delivery
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL):
                    await self._awake.wait()

    def _look_about(self) -> None:
        """Have all queues asked from time to time: what another worker gave back wakes nobody."""
        now = asyncio.get_running_loop().time()
        if now >= self._looks_at:
            self._looks_at = now + _POLL
            self._queues.stock(*PRIORITIES)

    async def _run(self, delivery: Delivery) -> None:
        again = await self._attempts.run(delivery)
        if again is not None:
            # A redelivery wakes nobody.
            asyncio.get_running_loop().call_later(again + 0.01, self._wake, *PRIORITIES)

    async def _on_wake(self, msg: Msg) -> None:
        self._wake(msg.subject.split(".")[2])

    def _wake(self, *priorities: str) -> None:
        self._queues.stock(*priorities)
        self._awake.set()

    def _durable(self, priority: Priority) -> str:
        # A consumer's name may not have a slash; `%` and what follows it may stand.
        return f"{priority}_{escape(self._model).replace('/', '%2F')}"


def child(worker: Worker, room: Callable[[], Awaitable[None]], model: str) -> Child:
    """Return what the supervisor needs to run this worker."""
    return Child(f"worker/{model}", lambda: worker.run(room))
