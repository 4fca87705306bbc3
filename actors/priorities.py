"""In which order a worker asks the queues of its model."""

from eventlog.events import Priority

PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")

# So many pulls from one that begins with a lower priority to the next.
_PERIOD = 8


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
