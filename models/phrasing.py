"""The words of `corpus.toml`, and how people type their questions.

The first two phrasings of every list are never drawn for training; they are the exam.
"""

import random
import tomllib
from pathlib import Path
from typing import Any, TypeAlias

Random: TypeAlias = random.Random

SOURCE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("corpus.toml").read_text(encoding="utf-8"))
WORDS: dict[str, list[str]] = SOURCE["words"]
TABLES: dict[str, dict[str, str]] = SOURCE["tables"]
PREFIXES = ("please ", "hi, ", "hey, ", "hello, ", "ok, ", "so, ", "well, ", "now ", "and ")
SUFFIXES = (" please", ", please", " thanks", "!", "??", " :)", " please.", " ?")
SYLLABLES = ("ta", "mor", "li", "ken", "bu", "zan", "fe", "dri", "o", "pal", "su", "win")


def noisy(rng: Random, form: str) -> str:
    """Return `form` as a hurried person may type it. What stands in braces stays as it is."""
    if rng.random() < 0.12:
        form = rng.choice(PREFIXES) + form
    if rng.random() < 0.3:
        form = form.rstrip("?.!") or form
    if rng.random() < 0.12:
        form += rng.choice(SUFFIXES)
    if rng.random() < 0.08:
        form = _with_typo(rng, form)
    if rng.random() < 0.04 and "{" not in form:
        return form.upper()
    return form if rng.random() < 0.4 else form[0].upper() + form[1:]


def _with_typo(rng: Random, form: str) -> str:
    words = form.split(" ")
    at = rng.randrange(len(words))
    word = words[at]
    if len(word) < 5 or "{" in word:
        return form
    cut = rng.randrange(1, len(word) - 1)
    words[at] = word[:cut] + word[cut + 1 :]
    return " ".join(words)


def phrase(rng: Random, kind: str, *, is_exam: bool) -> str:
    """Return a phrasing of `kind` with its braces: a clean unseen one for the exam, else a seen one."""
    forms: list[str] = SOURCE["phrasing"][kind]
    if is_exam:
        form = rng.choice(forms[:2])
        return form[0].upper() + form[1:]
    # The plain phrasing comes first, and most people use it.
    return noisy(rng, forms[2] if rng.random() < 0.15 else rng.choice(forms[2:]))


def invented(rng: Random) -> str:
    """Return a name that means nothing, so that it can only be copied."""
    syllables = rng.sample(SYLLABLES, 3)
    return "".join(syllables).capitalize()
