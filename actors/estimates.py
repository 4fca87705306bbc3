"""How long jobs will take, by how long such jobs took before."""

from collections import defaultdict, deque
from statistics import median

_MOST = 50


class Estimates:
    """The last run times, per model and operation, and how many jobs of a model ran at once. All times in seconds."""

    def __init__(self) -> None:
        self._runs: defaultdict[tuple[str, str], deque[float]] = defaultdict(lambda: deque(maxlen=_MOST))
        self._at_once: defaultdict[str, deque[int]] = defaultdict(lambda: deque(maxlen=_MOST))

    def begun(self, model: str, running: int) -> None:
        """Take in that a job has begun, with which so many of its model run."""
        self._at_once[model].append(running)

    def ended(self, model: str, operation: str, seconds: float) -> None:
        """Take in that a job was completed, after so long."""
        self._runs[model, operation].append(seconds)

    def run(self, model: str, operation: str) -> float | None:
        """Return how long one takes; None when none has run yet."""
        runs = self._runs.get((model, operation))
        return median(runs) if runs else None

    def wait(self, model: str, operation: str, ahead: int) -> float | None:
        """Return how long until one begins that has `ahead` others before it, as many at once as were seen running."""
        run = self.run(model, operation)
        return None if run is None else ahead / max(self._at_once.get(model, (1,))) * run
