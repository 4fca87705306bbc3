"""In which order a worker asks the queues of its model."""

from eventlog.events import Priority

PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")

# So many pulls from one that begins with a lower priority to the next.
_PERIOD = 8


class Queues:
    """The queues of one model. One that was found empty is not asked again before it may hold jobs."""

    def __init__(self) -> None:
        self._pull = 0
        self._stocked: set[str] = set(PRIORITIES)

    def stock(self, *priorities: str) -> None:
        """Note that these may hold jobs."""
        self._stocked.update(priorities)

    def ask(self, priority: Priority) -> None:
        """Note that this one is asked now: what it gets while it answers is noted anew."""
        self._stocked.discard(priority)

    def next(self) -> tuple[Priority, ...]:
        """Return which to ask in the next pull, in this order."""
        self._pull += 1
        return tuple(priority for priority in pull_order(self._pull) if priority in self._stocked)


def pull_order(pull: int) -> tuple[Priority, ...]:
    """Return the order in which pull number `pull` asks: high before normal before low.

    Every eighth begins with a lower one, low and normal in turn, so that each is begun with once in sixteen pulls and
    none waits for ever.
    """
    turn, rest = divmod(pull, _PERIOD)
    if rest:
        return PRIORITIES
    first: Priority = "low" if turn % 2 else "normal"
    return (first, *(priority for priority in PRIORITIES if priority != first))
