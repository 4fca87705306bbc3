import numpy as np
import pytest

from actors.engines.embeddings_dimensions import Dimensions, asked_dimensions, cut
from bus.errors import RefusedError
from bus.messages.embeddings import EmbedRequest

ANY, LISTED, NONE = (Dimensions(full=8, offered=offered) for offered in ((), (4, 2), None))


def asked(dimensions: Dimensions, length: int | None, *, allow_lossy: bool = False) -> int:
    return asked_dimensions(EmbedRequest(input="a", dimensions=length, allow_lossy=allow_lossy), dimensions)


@pytest.mark.parametrize("dimensions", [ANY, LISTED, NONE])
def test_full_length_is_always_offered(dimensions: Dimensions) -> None:
    assert (asked(dimensions, None), asked(dimensions, 8)) == (8, 8)


def test_length_is_one_that_the_model_is_made_for() -> None:
    assert (asked(ANY, 3), asked(LISTED, 4)) == (3, 4)


@pytest.mark.parametrize(
    ("dimensions", "length", "told"),
    [
        (ANY, 9, "have 8 dimensions, not 9"),
        (LISTED, 3, "offers 2, 4, 8 dimensions, not 3"),
        (NONE, 4, "have 8 dimensions and are not made to be cut"),
    ],
)
def test_other_length_is_refused_with_what_there_is(dimensions: Dimensions, length: int, told: str) -> None:
    with pytest.raises(RefusedError, match=told) as refused:
        asked(dimensions, length)

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", "dimensions")


def test_any_shorter_length_is_given_to_who_allows_a_loss() -> None:
    assert [asked(dimensions, 3, allow_lossy=True) for dimensions in (ANY, LISTED, NONE)] == [3, 3, 3]
    with pytest.raises(RefusedError):
        asked(NONE, 9, allow_lossy=True)


def test_cut_vector_is_normalised_again_if_it_was() -> None:
    numbers = np.array([3, 4, 0, 12], dtype="<f4")
    plain = Dimensions(full=4, offered=(), is_normalised=False)

    normalised = np.frombuffer(cut(numbers.tobytes(), 2, Dimensions(full=4, offered=())), "<f4")

    assert normalised.tolist() == pytest.approx([0.6, 0.8])
    assert np.frombuffer(cut(numbers.tobytes(), 2, plain), "<f4").tolist() == [3, 4]
    assert cut(numbers.tobytes(), 4, plain) == numbers.tobytes()
