from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from actors.engines.text_stop import StopMatcher

# Few letters, so that stop strings overlap with the text and with each other.
texts = st.text("ab.", max_size=30)
stop_strings = st.lists(st.text("ab.", min_size=1, max_size=4), max_size=4).map(tuple)
borders = st.lists(st.integers(0, 30), max_size=10)


def shown(stops: tuple[str, ...], pieces: list[str]) -> str:
    matcher = StopMatcher(stops)
    return "".join(matcher.feed(piece) for piece in pieces) + matcher.flush()


def cut(text: str, at: list[int]) -> list[str]:
    marks = [0, *sorted(at), len(text)]
    return [text[start:end] for start, end in pairwise(marks)]


@given(texts, stop_strings, borders)
def test_pieces_of_any_size_show_the_same_text(text: str, stops: tuple[str, ...], at: list[int]) -> None:
    assert shown(stops, cut(text, at)) == shown(stops, [text])


@given(texts, stop_strings, borders)
def test_text_ends_before_the_stop_string_that_is_complete_first(
    text: str, stops: tuple[str, ...], at: list[int]
) -> None:
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(ends)[1]] if ends else text

    assert shown(stops, cut(text, at)) == expected


@given(texts, stop_strings, borders)
def test_nothing_shown_is_taken_back(text: str, stops: tuple[str, ...], at: list[int]) -> None:
    matcher = StopMatcher(stops)
    so_far = ""
    for piece in cut(text, at):
        so_far += matcher.feed(piece)

        assert not any(stop in so_far for stop in stops)
        assert text.startswith(so_far)


def test_text_without_stop_strings_passes_at_once() -> None:
    assert StopMatcher(()).feed("anything") == "anything"


def test_beginning_of_a_stop_string_is_shown_when_the_text_ends() -> None:
    matcher = StopMatcher(("STOP",))

    assert matcher.feed("no ST") == "no "
    assert matcher.flush() == "ST"
    assert not matcher.is_stopped


def test_text_after_the_stop_string_is_dropped() -> None:
    matcher = StopMatcher(("STOP",))

    assert matcher.feed("one STOP two") == "one "
    assert matcher.feed(" three") == ""
    assert matcher.flush() == ""
    assert matcher.is_stopped
