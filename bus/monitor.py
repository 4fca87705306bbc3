"""What nats-server tells on its HTTP port alone: a client of its streams only notices that nothing is answered."""

import asyncio
from urllib.error import HTTPError
from urllib.request import urlopen

# A write has failed; or one has failed that makes the server turn JetStream off until it is started again.
_FULL = ("no space left on device", "quota exceeded", "JetStream not enabled")


async def is_disk_full(url: str) -> bool:
    """Say whether the server whose monitor is at `url`, and which lets us connect, cannot write for want of room.

    False for what is not known: an empty `url`, or no answer within a second.
    """
    return bool(url) and await asyncio.to_thread(_is_disk_full, url)


def _is_disk_full(url: str) -> bool:
    try:
        with urlopen(f"{url}/healthz", timeout=1):  # noqa: S310 - the configured monitor
            return False
    except HTTPError as error:
        with error:
            said = error.read().decode(errors="replace")
        return any(reason in said for reason in _FULL)
    except OSError:
        return False
