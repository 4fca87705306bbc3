"""How the result of a job that was run again compares with the first."""

import math
from typing import Any

import msgspec

from bus.messages.jobs import Comparison
from eventlog.job import Job

# What differs between two runs that gave the same: names, and what was still known from before.
_OWN = frozenset(("id", "cached_tokens"))

# Cosine. Below it vectors are not the same, above it they differ by rounding.
_SAME_VECTOR = 0.9999

# Log probabilities differ by rounding, when others were computed beside them.
_TOLERANCE = 0.01

_SHOWN = 20
_MOST = 10


def compare(replay_of: str, first: Job | None, again: Job, before: bytes | None, after: bytes | None) -> Comparison:
    """Compare two jobs that have ended; `before` and `after` are their results, None for those that are not there."""
    results = _ends(first, again) or _results(again, before, after)
    reasons: list[str] = []
    if first is not None and first.revision != again.revision and None not in (first.revision, again.revision):
        reasons = [f"the files of the model: {first.revision} before, {again.revision} now"]
    return Comparison(replay_of=replay_of, is_same=not results, differences=(*results[:_MOST], *reasons))


def _ends(first: Job | None, again: Job) -> list[str]:
    if first is None:
        return ["the first job is not in the log any more"]
    if first.status != again.status:
        return [f"status: {_end(first)} before, {_end(again)} now"]
    return []


def _end(job: Job) -> str:
    return f"{job.status} ({job.reason})" if job.reason else job.status


def _results(again: Job, before: bytes | None, after: bytes | None) -> list[str]:
    if again.status != "completed":
        return []
    if before is None or after is None:
        return [f"the result of the {'first job' if before is None else 'replay'} is gone or damaged"]
    return _differences(msgspec.json.decode(before), msgspec.json.decode(after), "")


def _differences(before: Any, after: Any, path: str) -> list[str]:
    if path == "embeddings" and isinstance(before, list) and isinstance(after, list):
        return _vectors(before, after)
    if isinstance(before, dict) and isinstance(after, dict):
        names = [name for name in (before | after) if name not in _OWN]
        inner = ((before.get(name), after.get(name), f"{path}.{name}" if path else name) for name in names)
        return [line for each in inner for line in _differences(*each)]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        each_item = ((b, a, f"{path}[{n}]") for n, (b, a) in enumerate(zip(before, after, strict=True)))
        return [line for each in each_item for line in _differences(*each)]
    if isinstance(before, str) and isinstance(after, str) and before != after:
        return [_text(before, after, path)]
    if isinstance(before, float) and isinstance(after, float) and math.isclose(before, after, abs_tol=_TOLERANCE):
        return []
    return [] if before == after else [f"{path}: {_short(before)} before, {_short(after)} now"]


def _text(before: str, after: str, path: str) -> str:
    same = next(
        (n for n, (b, a) in enumerate(zip(before, after, strict=False)) if b != a), min(len(before), len(after))
    )
    return (
        f"{path}: from character {same + 1} on, {before[same : same + _SHOWN]!r} before, "
        f"{after[same : same + _SHOWN]!r} now"
    )


def _vectors(before: list[list[float]], after: list[list[float]]) -> list[str]:
    if len(before) != len(after):
        return [f"embeddings: {len(before)} before, {len(after)} now"]
    likeness = [_cosine(b, a) for b, a in zip(before, after, strict=True)]
    return [f"embeddings[{n}]: cosine {each:.6f}" for n, each in enumerate(likeness) if each < _SAME_VECTOR]


def _cosine(one: list[float], other: list[float]) -> float:
    if len(one) != len(other):
        return 0.0
    lengths = math.hypot(*one) * math.hypot(*other)
    if not lengths:
        return float(one == other)
    return sum(x * y for x, y in zip(one, other, strict=True)) / lengths


def _short(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= 2 * _SHOWN else f"{text[: 2 * _SHOWN]}…"
