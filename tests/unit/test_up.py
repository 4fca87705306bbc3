"""What `fusion up` tells of an end that came out of its task groups."""

import pytest

from actors.supervisor import GaveUpError
from bus.streams import StreamError
from cli.up import foreseen


@pytest.mark.parametrize("kind", [StreamError, GaveUpError, TimeoutError, OSError])
def test_what_may_happen_to_a_user_is_found_in_its_groups(kind: type[Exception]) -> None:
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [kind("why")])])

    assert str(foreseen(group)) == "why"


def test_mistake_of_ours_is_raised_as_it_is_also_beside_what_may_happen() -> None:
    group = ExceptionGroup("outer", [StreamError("why"), ValueError("a mistake")])

    with pytest.raises(ExceptionGroup) as raised:
        foreseen(group)

    assert raised.value is group
