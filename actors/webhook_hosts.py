"""How many deliveries one host gets at once, and when those are looked at again that have to wait for it."""

from collections import defaultdict

from msgspec import Struct

AT_ONCE = 4

_SHORTEST = 0.1
_LONGEST = 60.0
# Of how long attempts take: what is assumed before the first, and how much the last counts.
_FIRST_GUESS = 0.2
_WEIGHT = 0.5


class _Host(Struct):
    """What is known of one host: deliveries that run and that wait, and the seconds that an attempt takes."""

    running: int = 0
    waiting: set[str] = set()
    seconds: float = _FIRST_GUESS


class Hosts:
    """All hosts that have something to do."""

    def __init__(self) -> None:
        self._hosts: defaultdict[str, _Host] = defaultdict(_Host)

    def enter(self, name: str, delivery_id: str) -> float | None:
        """Take a place; `leave` gives it back. When none is free, return after how many seconds to try again.

        That is about when its turn comes, so that those who wait for a host that is dead are seldom looked at.
        """
        host = self._hosts[name]
        if host.running < AT_ONCE:
            host.waiting.discard(delivery_id)
            host.running += 1
            return None
        host.waiting.add(delivery_id)
        return min(max(host.seconds * len(host.waiting) / AT_ONCE, _SHORTEST), _LONGEST)

    def leave(self, name: str, seconds: float) -> None:
        """Give a place back after an attempt of so many seconds."""
        host = self._hosts[name]
        host.running -= 1
        host.seconds += _WEIGHT * (seconds - host.seconds)
        if not (host.running or host.waiting):
            del self._hosts[name]
