"""Ends a model's process whose engine thread hangs: nothing else ends a step that does not return."""

import faulthandler
import os
from contextlib import suppress
from typing import NoReturn

import structlog
from msgspec import structs
from nats.errors import Error as NatsError

from bus.client import Bus, flushed
from bus.heartbeat import say
from bus.messages.presence import Heartbeat

log = structlog.get_logger()

# The exit status by which the supervisor knows why.
STUCK = 86

_TOLD_WITHIN = 2


async def end_stuck(bus: Bus, beat: Heartbeat, seconds: float) -> NoReturn:
    """Say that the instance of `beat` is down, so that its streams end, and end this process without clean-up.

    `seconds` is how long the engine thread has not answered; where each thread stands is written to the log.
    """
    log.error("engine.stuck", model=beat.model, seconds=round(seconds, 1))
    faulthandler.dump_traceback()
    with suppress(NatsError, TimeoutError):
        await say(bus, structs.replace(beat, state="down"))
        await flushed(bus.nc, _TOLD_WITHIN)
    os._exit(STUCK)
