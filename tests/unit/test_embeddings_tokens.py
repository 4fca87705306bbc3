from pathlib import Path

import pytest

from actors.engines.embeddings_folder import read_folder
from actors.engines.embeddings_tokens import InputTokens
from bus.errors import RefusedError
from bus.messages.embeddings import EmbedRequest
from tests.support.tiny_bert import MAX_TOKENS, VOCABULARY, write_json, write_tiny_bert

CLS, SEP = 2, 3
A, BIRD, SINGS = 4, 5, 6


@pytest.fixture
def tokens(tmp_path: Path) -> InputTokens:
    return InputTokens(read_folder(write_tiny_bert(tmp_path)))


def test_text_gets_special_tokens_which_are_counted(tokens: InputTokens) -> None:
    work = tokens.work(EmbedRequest(input=("A bird sings", "birds")))

    assert work.tokens == ((CLS, A, BIRD, SINGS, SEP), (CLS, BIRD, VOCABULARY.index("##s"), SEP))
    assert work.prompt_tokens == 9


def test_a_text_alone_is_one_input(tokens: InputTokens) -> None:
    assert tokens.work(EmbedRequest(input="a bird")) == tokens.work(EmbedRequest(input=("a bird",)))


def test_token_ids_are_content_like_a_text(tokens: InputTokens) -> None:
    work = tokens.work(EmbedRequest(input=((A, BIRD), "a bird")))

    assert work.tokens[0] == work.tokens[1]


def test_padding_and_cutting_asked_for_by_the_file_are_off(tokens: InputTokens) -> None:
    work = tokens.work(EmbedRequest(input=("a", "bird " * 40)))

    assert [len(ids) for ids in work.tokens] == [3, 42]


@pytest.mark.parametrize("empty", ["", ()])
def test_empty_input_is_refused_by_number(tokens: InputTokens, empty: str | tuple[int, ...]) -> None:
    with pytest.raises(RefusedError) as refused:
        tokens.work(EmbedRequest(input=("a", "bird", empty)))

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", "input[2]")


@pytest.mark.parametrize("token", [-1, len(VOCABULARY)])
def test_token_outside_the_vocabulary_is_refused_by_number(tokens: InputTokens, token: int) -> None:
    with pytest.raises(RefusedError, match=f"Input 1 holds token {token}") as refused:
        tokens.work(EmbedRequest(input=("a", (A, token))))

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", "input[1]")


def test_longest_input_fits_and_one_more_token_is_refused(tokens: InputTokens) -> None:
    tokens.work(EmbedRequest(input=((BIRD,) * (MAX_TOKENS - 2),)))

    with pytest.raises(RefusedError, match="However, input 1 has 49 tokens") as refused:
        tokens.work(EmbedRequest(input=("a", "bird " * (MAX_TOKENS - 1))))

    assert (refused.value.code, refused.value.failure.param) == ("context_length_exceeded", "input[1]")


def test_truncate_leaves_out_the_end_and_keeps_the_special_tokens(tokens: InputTokens) -> None:
    work = tokens.work(EmbedRequest(input=("a " + "bird " * 99, (A,) + (BIRD,) * 99), truncate=True))

    assert work.tokens == ((CLS, A, *(BIRD,) * (MAX_TOKENS - 3), SEP),) * 2


def test_folder_that_asks_for_lower_case_gets_it(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text().replace('"lowercase":true', '"lowercase":false')
    (tmp_path / "tokenizer.json").write_text(text.replace('"lowercase": true', '"lowercase": false'))
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": True})

    work = InputTokens(read_folder(tmp_path)).work(EmbedRequest(input=("A BIRD",)))

    assert work.tokens == ((CLS, A, BIRD, SEP),)
