"""After a step that failed: finds out which row was at fault, so that those beside it can go on."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mlx_lm.generate import BatchGenerator

from actors.engines.text_generator import insert
from actors.engines.text_prefix import PrefixCache
from actors.engines.text_row import Row

# A batch that fails though each of its rows does not, fails again; so often a row is taken along.
_MOST_FAILURES = 2


class Verdict(NamedTuple):
    """Rows that can go on, and those that cannot, with what they raise or raised together."""

    sound: list[Row]
    failed: list[tuple[Row, Exception]]


def judge(rows: Iterable[Row], build: Callable[[], BatchGenerator], kept: PrefixCache, together: Exception) -> Verdict:
    """Run each of `rows`, which failed `together`, alone for one token. What they have read for that is `kept`."""
    sound, failed = [], []
    for row in rows:
        error = _raised(row, build(), kept)
        if error is None:
            sound.append(row)
        else:
            failed.append((row, error))
    if failed:
        return Verdict(sound, failed)
    for row in sound:
        row.failures += 1
    return Verdict(
        [row for row in sound if row.failures < _MOST_FAILURES],
        [(row, together) for row in sound if row.failures >= _MOST_FAILURES],
    )


def _raised(row: Row, generator: BatchGenerator, kept: PrefixCache) -> Exception | None:
    row.fork = 0
    try:
        insert(generator, row)
        while not generator.next()[1]:
            pass
        # The token is drawn once more when the row goes on.
        left = generator.remove([row.uid], return_prompt_caches=kept.is_on)
    except Exception as error:  # noqa: BLE001 - whatever a row raises is its own
        return error
    finally:
        generator.close()
    for caches, tokens in left.values():
        kept.put(tokens, caches)
    return None
