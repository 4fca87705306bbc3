"""Text from outside becomes one token of a subject, and can be read back."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from nats.aio.client import _validate_subject

from bus.subjects import CANCEL, CHAT, REQUESTS, escape, fill, instance_of, unescape, wake_of

text = some.text(alphabet=some.characters(exclude_categories=["Cs"]), min_size=1)


@given(text)
@example("mlx-community/Phi-3.5-mini 4bit")
@example("a.b")
@example("*")
@example(">")
@example("%2E")
@example("\x00\r\n\t\x7f")
@example("ü/日本")
@example("..")
@example("~$")
def test_any_text_is_one_token_that_nats_takes_and_comes_back(words: str) -> None:
    token = escape(words)

    assert unescape(token) == words
    assert token.isascii()
    assert not re.search(r"[\s.*>\x00-\x1f\x7f]", token)
    _validate_subject(f"fusion.chat.{token}")


@given(text, text)
def test_two_texts_never_become_one_token(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


def test_slash_of_a_model_id_stays_readable() -> None:
    assert CHAT("mlx-community/Phi-3.5").name == "fusion.chat.mlx-community/Phi-3%2E5"


def test_empty_text_is_no_token() -> None:
    with pytest.raises(ValueError, match="empty"):
        escape("")


def test_number_of_tokens_must_fit() -> None:
    with pytest.raises(ValueError, match="takes 2 tokens, got 1"):
        fill(CANCEL, "instance")
    with pytest.raises(ValueError, match="takes 1 tokens, got 0"):
        CHAT()


@given(text, text)
def test_filled_pattern_has_as_many_tokens_as_the_pattern(one: str, other: str) -> None:
    assert fill(CANCEL, one, other).count(".") == CANCEL.count(".")
    assert wake_of(one).count(".") == 4


@given(text)
def test_instance_is_read_from_the_subject_that_cancels(instance: str) -> None:
    assert instance_of(fill(CANCEL, instance, "key")) == instance


@pytest.mark.parametrize("subject", ["", "_INBOX.x", "a.b.c.d.e.f"])
def test_other_subjects_tell_of_no_instance(subject: str) -> None:
    assert instance_of(subject) == ""


def test_subjects_are_all_different() -> None:
    assert len({subject.pattern for subject in REQUESTS}) == len(REQUESTS)
