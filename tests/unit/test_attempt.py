"""How long a job waits for its next attempt."""

import pytest

from actors.attempt import retry_delay


@pytest.mark.parametrize(("attempt", "longest"), [(1, 1), (2, 2), (5, 16), (7, 60), (2**31 - 1, 60)])
def test_delay_grows_with_the_attempts_up_to_a_limit_and_chance_spreads_it(attempt: int, longest: float) -> None:
    assert [retry_delay(attempt, chance) for chance in (0.0, 0.5, 1.0)] == [longest / 2, longest * 0.75, longest]
