"""Hosting a model: loads its engine, answers for it, says how it stands, and runs its jobs, all in this process.

Each capability's actor file stays free of this; `capabilities.py` says which engine, actor and subjects a kind of
model has.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import psutil
import structlog
from nats.aio.msg import Msg

from actors.attempt import WorkerConfig
from actors.capabilities import Capability
from actors.config import ActorsConfig
from actors.engines.memory import allocated_bytes
from actors.mailbox import Finished, Limits, Mailbox
from actors.recorder import Recorder
from actors.supervisor import supervise_all
from actors.watchdog import end_stuck
from actors.worker import Worker
from actors.worker import child as worker_child
from bus.blobs import Blobs
from bus.client import Bus
from bus.heartbeat import beating
from bus.ids import new_id
from bus.messages.catalogue import ModelEntry
from bus.messages.presence import Heartbeat, InstanceState
from bus.messages.slots import Drain
from bus.serve import Endpoint, Receive, ServiceInfo, Serving, serving
from bus.subjects import DRAIN, Subject, escape, fill
from eventlog.events import ModelReady, RequestFinished

log = structlog.get_logger()

# An engine thread that has not answered for so long makes no progress.
_STUCK = 60.0


class Host:
    """One model in this process."""

    def __init__(
        self,
        bus: Bus,
        entry: ModelEntry,
        capability: Capability,
        config: ActorsConfig,
        instance: str,
        *,
        slot: int | None = None,
    ) -> None:
        self._bus = bus
        self._entry = entry
        self._capability = capability
        self._config = config
        self._instance = instance
        self._slot = slot
        self._order: Drain | None = None
        self._ordered = asyncio.Event()
        self._served: Serving | None = None
        self.ready = asyncio.Event()
        self._recorder: Recorder | None = None
        self._state: InstanceState = "starting"
        self._detail: dict[str, str] = {}
        self._asked = time.monotonic()
        self._ping: asyncio.Task[None] | None = None
        self._process = psutil.Process()
        limits = Limits(
            concurrency=entry.concurrency or config.default_concurrency,
            max_queue=config.max_queue_size,
            queue_timeout=config.queue_timeout,
        )
        self._mailbox: Mailbox[Any, Any, Any] = Mailbox(capability.actor, limits, self._finished, instance, entry.id)

    async def run(self, recorder: Recorder, blobs: Blobs) -> None:
        """Load, then answer until told to drain, or cancelled; then let what is running finish, within its time."""
        self._recorder = recorder
        if self._slot is None:  # A slot hears of orders itself.
            await self._bus.nc.subscribe(fill(DRAIN, self._instance), cb=self._on_drain)
        async with (
            beating(self._bus, self._look),
            self._loaded(),
            serving(self._bus, self._info(), *self._endpoints(), drain=self._config.drain_seconds) as served,
        ):
            self._served = served
            self._state = "ready"
            self.ready.set()
            worker = self._worker(blobs)
            async with asyncio.TaskGroup() as group:
                jobs = group.create_task(supervise_all(worker_child(worker, self._mailbox.room, self._entry.id)))
                try:
                    await self._ordered.wait()
                finally:
                    self._state = "draining"
                    if self._order is not None:
                        worker.drain = served.drain = self._order.seconds
                    jobs.cancel()

    @property
    def memory_bytes(self) -> int:
        """What this process takes: where weights lie in memory that the system does not count as its own, mlx knows."""
        return max(self._process.memory_info().rss, allocated_bytes())

    def drain(self, order: Drain) -> None:
        """Take no more, finish, and end. Nobody may be told any more to ask this instance."""
        self._order = order
        self._ordered.set()

    async def _on_drain(self, msg: Msg) -> None:
        self.drain(msgspec.json.decode(msg.data, type=Drain))

    def _endpoints(self) -> list[Endpoint[Any, Any]]:
        """Return what a model answers on: of a warm one its subjects and those of its aliases, of a slot its own."""
        answers: list[tuple[Subject[Any, Any], Receive[Any, Any]]] = [
            *((subject, self._mailbox.receive) for subject in self._capability.subjects),
            *self._capability.beside,
        ]
        names = (self._entry.id, *self._entry.aliases)
        return [
            Endpoint(address, receive)
            for subject, receive in answers
            for address in (
                [subject(name) for name in names]
                if self._slot is None
                else [subject.at(self._entry.id, self._instance)]
            )
        ]

    @asynccontextmanager
    async def _loaded(self) -> AsyncGenerator[None]:
        begun = time.monotonic()
        facts = await self._capability.engine.load()
        seconds = time.monotonic() - begun
        self._detail = {
            "family": facts.family,
            "context_length": str(facts.context_length),
            "size_bytes": str(facts.size_bytes),
            "dtype": facts.dtype,
            "blas": facts.blas,
            "warmup": "on" if self._config.warmup else "off",
            "load_seconds": f"{seconds:.3f}",
        }
        if facts.dimensions is not None:
            self._detail["dimensions"] = str(facts.dimensions)
        if facts.profile is not None:
            self._detail["profile"] = facts.profile
        log.info("model.ready", model=self._entry.id, **self._detail)
        self._record(
            ModelReady(
                id=new_id(),
                at=datetime.now(UTC),
                model=self._entry.id,
                instance=self._instance,
                seconds=seconds,
                size_bytes=facts.size_bytes,
                memory_bytes=self.memory_bytes,
            )
        )
        try:
            yield
        finally:
            await self._capability.engine.unload()
            if self._capability.media is not None:
                await self._capability.media.close()

    def _worker(self, blobs: Blobs) -> Worker:
        config = WorkerConfig(
            # Half of the places, so that jobs never shut out those who wait for an answer.
            concurrency=max(1, (self._entry.concurrency or self._config.default_concurrency) // 2),
            max_attempts=self._config.job_max_attempts,
            run_timeout=self._config.job_run_timeout,
            drain=self._config.drain_seconds,
            ack_wait=self._config.job_ack_wait,
            revision=self._capability.revision,
        )
        # The jobs of a slot go past the door: they hold the slot themselves, and may run on while it is draining.
        reach = None if self._slot is None else lambda subject: subject.at(self._entry.id, self._instance)
        return Worker(self._bus, blobs, self._entry.id, self._instance, config, reach=reach)

    def _info(self) -> ServiceInfo:
        return ServiceInfo(
            name=f"fusion-{self._entry.kind}",
            instance=self._instance,
            description=f"{self._entry.kind} with {self._entry.id}",
            metadata={
                "model": self._entry.id,
                "token": escape(self._entry.id),
                "tier": str(self._entry.tier),
            },
            stats=lambda: {name: getattr(self._mailbox.load, name) for name in self._mailbox.load.__struct_fields__},
        )

    async def _look(self) -> Heartbeat:
        """Return how this instance stands. Does not return if the engine thread hangs: the process ends."""
        beat = Heartbeat(
            instance=self._instance,
            role=self._entry.kind,
            state=self._progress(),
            pid=os.getpid(),
            at=time.time(),
            model=self._entry.id,
            slot=self._slot,
            load=self._mailbox.load,
            working=self._served.running if self._served else 0,
            rss_bytes=self._process.memory_info().rss,
            mlx_bytes=allocated_bytes(),
            detail=self._detail,
        )
        if self._state == "ready" and self._silence > self._config.step_timeout:
            await end_stuck(self._bus, beat, self._silence)
        return beat

    @property
    def _silence(self) -> float:
        """For how long the engine thread has not answered, in seconds: its step, and little else, takes so long."""
        return time.monotonic() - self._asked

    def _progress(self) -> InstanceState:
        """Return the state; `stuck` when the engine thread has not answered for long."""
        if self._state != "ready":
            return self._state
        if self._ping is None or self._ping.done():
            if self._ping is not None:
                self._ping.result()  # A broken engine raises here, and the host with it.
            self._asked = time.monotonic()
            self._ping = asyncio.create_task(self._capability.engine.ping())
        return "stuck" if self._silence > _STUCK else "ready"

    def _finished(self, finished: Finished[Any]) -> None:
        usage = getattr(finished.last, "usage", None)
        read = usage.prompt_tokens if usage else getattr(finished.last, "prompt_tokens", None)
        self._record(
            RequestFinished(
                id=new_id(),
                at=datetime.now(UTC),
                request_id=finished.request_id,
                model=self._entry.id,
                operation=finished.operation,
                outcome=finished.outcome,
                queued=finished.queued,
                first=finished.first,
                total=finished.total,
                prompt_tokens=read or 0,
                completion_tokens=usage.completion_tokens if usage else 0,
                cached_tokens=usage.cached_tokens if usage else 0,
                key=finished.key,
            )
        )

    def _record(self, event: ModelReady | RequestFinished) -> None:
        if self._recorder is not None:
            self._recorder.put(event)
