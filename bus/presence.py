"""Who is there: the last heartbeat of each instance."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from bus.messages.presence import Heartbeat

log = structlog.get_logger()


class Presence:
    """The instances heard of within `silence` seconds."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._heard: dict[str, tuple[float, Heartbeat]] = {}
        self._decoder = msgspec.json.Decoder(Heartbeat)
        self._news = asyncio.Event()

    def receive(self, payload: bytes, now: float) -> Heartbeat | None:
        """Take a heartbeat in. One that cannot be read is logged and left out."""
        try:
            beat = self._decoder.decode(payload)
        except msgspec.DecodeError as error:
            log.warning("heartbeat.unreadable", error=str(error))
            return None
        if beat.state == "down":
            self._heard.pop(beat.instance, None)
        else:
            self._heard[beat.instance] = (now, beat)
        self._tell()
        return beat

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, is_so: Callable[[tuple[Heartbeat, ...]], bool]) -> None:
        """Return when `is_so` of the instances that are there; looks again at every heartbeat."""
        while not is_so(self.instances):
            await self._news.wait()

    async def changed(self) -> None:
        """Return when a heartbeat has come, or somebody was found to be silent."""
        await self._news.wait()

    def forget_silent(self, now: float) -> list[str]:
        """Drop, and return, the instances that were not heard of for too long."""
        silent = [name for name, (at, _) in self._heard.items() if now - at > self._silence]
        for name in silent:
            del self._heard[name]
        if silent:
            self._tell()
        return silent

    @property
    def instances(self) -> tuple[Heartbeat, ...]:
        """The last heartbeat of everyone who is there."""
        return tuple(beat for _, beat in self._heard.values())
