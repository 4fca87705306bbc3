"""What answers for the rag actor where the packages that it needs are not installed."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from actors.supervisor import Child
from bus.client import Bus, settled
from bus.errors import BusError, RefusedError
from bus.messages.jobs import RefuseJobs
from bus.serve import Caller, Endpoint, ServiceInfo, serving
from bus.subjects import REFUSE_JOBS, REQUESTS, wake_of

# Of the extra `rag`; hnswlib may be missing (docs/adr/0019).
_PACKAGES = ("charset_normalizer", "docx", "pypdfium2", "lxml", "markdown_it", "Stemmer", "trafilatura")
_MESSAGE = "RAG is not installed here: pip install 'mlx-fusion[rag]', and start Fusion again."


def is_installed() -> bool:
    """Say whether the packages of the extra `rag` are there."""
    return all(find_spec(name) is not None for name in _PACKAGES)


async def _refuse(_request: object, _: Caller) -> AsyncGenerator[Any]:
    raise RefusedError("unavailable", _MESSAGE)
    yield


def child(bus: Bus, instance: str, on_open: Callable[[], Awaitable[None]]) -> Child:
    """Return what the supervisor needs to have everything refused."""

    async def on_wake(_: Msg) -> None:
        with suppress(BusError):  # Only tidiness: a job that is left waits until it expires.
            await bus.ask(REFUSE_JOBS(), RefuseJobs(model="rag", error=_MESSAGE))

    async def run() -> None:
        info = ServiceInfo(name="fusion-rag", instance=instance, description="Says that RAG is not installed")
        subjects = [subject for subject in REQUESTS if subject.pattern.startswith("fusion.rag.")]
        async with serving(bus, info, *(Endpoint(subject(), _refuse) for subject in subjects)):
            subscription = await bus.nc.subscribe(wake_of("rag"), cb=on_wake)
            try:
                await settled(bus.nc)
                await on_open()
                await asyncio.Event().wait()
            finally:
                with suppress(NatsError):
                    await subscription.unsubscribe()

    return Child("rag", run)
