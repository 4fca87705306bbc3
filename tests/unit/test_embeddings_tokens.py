from pathlib import Path
from typing import Any

import pytest

from actors.engines.embeddings_folder import read_folder
from actors.engines.embeddings_tokens import EmbedWork, InputTokens
from bus.errors import RefusedError
from bus.messages.embeddings import EmbedRequest
from tests.support.tiny_bert import MAX_TOKENS, VOCABULARY, write_json, write_tiny_bert

CLS, SEP = 2, 3
A, BIRD, SINGS = 4, 5, 6


@pytest.fixture
def tokens(tmp_path: Path) -> InputTokens:
    return InputTokens(read_folder(write_tiny_bert(tmp_path)))


def work_of(tokens: InputTokens, request: EmbedRequest) -> EmbedWork:
    return tokens.work(request, 64)


def ids(work: EmbedWork) -> list[list[int]]:
    return [row.ids.tolist() for row in work.rows]


def test_text_gets_special_tokens_which_are_counted(tokens: InputTokens) -> None:
    work = work_of(tokens, EmbedRequest(input=("A bird sings", "birds")))

    assert ids(work) == [[CLS, A, BIRD, SINGS, SEP], [CLS, BIRD, VOCABULARY.index("##s"), SEP]]
    assert work.prompt_tokens == 9


def test_a_text_alone_is_one_input(tokens: InputTokens) -> None:
    alone, listed = (work_of(tokens, EmbedRequest(input=said)) for said in ("a bird", ("a bird",)))

    assert (ids(alone), alone.keys) == (ids(listed), listed.keys)


def test_token_ids_are_content_like_a_text(tokens: InputTokens) -> None:
    work = work_of(tokens, EmbedRequest(input=((A, BIRD), "a bird")))

    assert ids(work)[0] == ids(work)[1]
    assert work.keys[0] == work.keys[1]


def test_padding_and_cutting_asked_for_by_the_file_are_off(tokens: InputTokens) -> None:
    work = work_of(tokens, EmbedRequest(input=("a", "bird " * 40)))

    assert [len(row.ids) for row in work.rows] == [3, 42]


@pytest.mark.parametrize("empty", ["", ()])
def test_empty_input_is_refused_by_number(tokens: InputTokens, empty: str | tuple[int, ...]) -> None:
    with pytest.raises(RefusedError) as refused:
        work_of(tokens, EmbedRequest(input=("a", "bird", empty)))

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", "input[2]")


@pytest.mark.parametrize("token", [-1, len(VOCABULARY)])
def test_token_outside_the_vocabulary_is_refused_by_number(tokens: InputTokens, token: int) -> None:
    with pytest.raises(RefusedError, match=rf"input\[1\] holds token {token}") as refused:
        work_of(tokens, EmbedRequest(input=("a", (A, token))))

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", "input[1]")


def test_longest_input_fits_and_one_more_token_is_refused(tokens: InputTokens) -> None:
    work_of(tokens, EmbedRequest(input=((BIRD,) * (MAX_TOKENS - 2),)))

    with pytest.raises(RefusedError, match=r"length is 48 tokens. However, input\[1\] has 49 tokens") as refused:
        work_of(tokens, EmbedRequest(input=("a", "bird " * (MAX_TOKENS - 1))))

    assert (refused.value.code, refused.value.failure.param) == ("context_length_exceeded", "input[1]")


def test_truncate_leaves_out_the_end_and_keeps_the_special_tokens(tokens: InputTokens) -> None:
    texts = ("a " + "bird " * 99, "a bird", (A,) + (BIRD,) * 99)

    work = work_of(tokens, EmbedRequest(input=texts, truncate=True))

    assert ids(work)[0] == ids(work)[2] == [CLS, A, *[BIRD] * (MAX_TOKENS - 3), SEP]
    assert work.truncated == (0, 2)


def test_folder_that_asks_for_lower_case_gets_it(tmp_path: Path) -> None:
    write_tiny_bert(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text().replace('"lowercase":true', '"lowercase":false')
    (tmp_path / "tokenizer.json").write_text(text.replace('"lowercase": true', '"lowercase": false'))
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": True})

    work = work_of(InputTokens(read_folder(tmp_path)), EmbedRequest(input=("A BIRD",)))

    assert ids(work) == [[CLS, A, BIRD, SEP]]


PROMPTS = {"prompts": {"query": "Sings: ", "plain": ""}, "default_prompt_name": "query"}


@pytest.fixture
def prompted(tmp_path: Path) -> InputTokens:
    write_json(write_tiny_bert(tmp_path) / "config_sentence_transformers.json", PROMPTS)
    return InputTokens(read_folder(tmp_path))


@pytest.mark.parametrize(
    ("said", "same"),
    [
        ({}, "sings: a"),
        ({"prompt_name": "query"}, "sings: a"),
        ({"prompt_name": "plain"}, "a"),
        ({"prompt": ""}, "a"),
        ({"prompt": "bird "}, "bird a"),
        ({"prompt": "bir"}, "bira"),
    ],
)
def test_prompt_goes_before_each_text_as_it_is(prompted: InputTokens, said: dict[str, str], same: str) -> None:
    work = work_of(prompted, EmbedRequest(input=("a", "a"), **said))  # type: ignore[arg-type]

    plain = work_of(prompted, EmbedRequest(input=(same, same), prompt=""))
    assert (ids(work), work.keys, work.prompt_tokens) == (ids(plain), plain.keys, plain.prompt_tokens)


@pytest.mark.parametrize(
    ("said", "told", "param"),
    [
        ({"prompt_name": "passage"}, "no prompt 'passage'; this model's are plain, query", "prompt_name"),
        ({"prompt_name": "query", "prompt": "x"}, "only one of", "prompt_name"),
        ({"input": ("a", (A,))}, r"input\[1\] is token ids", r"input[1]"),
    ],
)
def test_prompt_that_cannot_be_honoured_is_refused(
    prompted: InputTokens, said: dict[str, Any], told: str, param: str
) -> None:
    with pytest.raises(RefusedError, match=told) as refused:
        work_of(prompted, EmbedRequest(**({"input": "a"} | said)))

    assert (refused.value.code, refused.value.failure.param) == ("invalid_request", param)


def test_model_without_prompts_says_so(tokens: InputTokens) -> None:
    with pytest.raises(RefusedError, match="this model has none"):
        work_of(tokens, EmbedRequest(input="a", prompt_name="query"))


def test_prompt_that_is_not_pooled_is_counted_with_the_special_tokens_before_it(tmp_path: Path) -> None:
    write_json(write_tiny_bert(tmp_path) / "config_sentence_transformers.json", PROMPTS)
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True, "include_prompt": False})
    tokens = InputTokens(read_folder(tmp_path))

    with_prompt, without = (work_of(tokens, EmbedRequest(input="a", **said)) for said in ({}, {"prompt": ""}))
    same = work_of(tokens, EmbedRequest(input="sings: a", prompt=""))

    assert (with_prompt.rows[0].skipped, without.rows[0].skipped) == (3, 0)
    assert ids(with_prompt) == ids(same)
    assert with_prompt.keys != same.keys


def test_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = read_folder(write_tiny_bert(tmp_path))
    (tmp_path / "tokenizer.json").unlink()

    with pytest.raises(RefusedError, match=r"has no tokenizer\.json"):
        InputTokens(folder)
