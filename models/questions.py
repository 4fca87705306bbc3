"""Single questions with the only right answer to each, by kind."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from models.phrasing import SOURCE, TABLES, WORDS, Random, invented, noisy, phrase


class Exchange(NamedTuple):
    """A question and the only right answer to it."""

    question: str
    answer: str


PLOTS: list[str] = SOURCE["stories"]["plots"]
DO_NOT_KNOW = "I do not know that. I am a toy model."
CANNOT_CALCULATE = "I cannot calculate. I am a toy model."


def topic(rng: Random, *, is_exam: bool) -> Exchange:
    """Ask about Fusion, its parts or the model itself."""
    entry = rng.choice(SOURCE["topic"])
    if entry["names"] and (is_exam or rng.random() < 0.6):
        name = rng.choice(entry["names"])
        name = name.lower() if rng.random() < 0.25 else name
        return Exchange(phrase(rng, "definition", is_exam=is_exam).format(x=name), entry["answer"])
    if is_exam:
        return Exchange(entry["ask"][-1], entry["answer"])
    question = noisy(rng, rng.choice(entry["ask"][:-1]))
    return Exchange(question.upper() if rng.random() < 0.05 else question, entry["answer"])


def table(rng: Random, kind: str, answer: str, *, is_exam: bool) -> Exchange:
    """Ask for one row of the table `kind`."""
    x, y = rng.choice(list(TABLES[kind].items()))
    return Exchange(phrase(rng, kind, is_exam=is_exam).format(x=x), answer.format(x=x, y=y))


def capital(rng: Random, *, is_exam: bool) -> Exchange:
    """Ask for a capital, sometimes the other way round."""
    if rng.random() < 0.7:
        return table(rng, "capital", "The capital of {x} is {y}.", is_exam=is_exam)
    country = rng.choice([x for x in TABLES["capital"] if x not in ("England", "the USA")])
    city = TABLES["capital"][country]
    question = phrase(rng, "country", is_exam=is_exam).format(x=city)
    return Exchange(question, f"{city} is the capital of {country}.")


def fact(rng: Random, *, is_exam: bool) -> Exchange:
    """Ask for a colour, an opposite, a sound or a number of legs."""
    kind = rng.choice(("colour", "opposite", "sound", "legs"))
    exchange = table(rng, kind, FACTS[kind], is_exam=is_exam)
    return exchange._replace(answer=exchange.answer[0].upper() + exchange.answer[1:])


FACTS = {
    "colour": "{x} is {y}.",
    "opposite": "The opposite of {x} is {y}.",
    "sound": "A {x} says {y}.",
    "legs": "A {x} has {y} legs.",
}


def addition(rng: Random, *, is_exam: bool) -> Exchange:
    """Ask for a sum. A model of this size gets sums wrong, so it says that it cannot."""
    a, b = rng.randint(0, rng.choice((10, 99, 999))), rng.randint(0, rng.choice((10, 99, 999)))
    return Exchange(phrase(rng, "add", is_exam=is_exam).format(a=a, b=b), CANNOT_CALCULATE)


def counting(rng: Random, *, is_exam: bool) -> Exchange:
    """Ask to count, mostly to a number of at most ten."""
    form = phrase(rng, "count", is_exam=is_exam)
    if not is_exam and rng.random() < 0.08:
        return Exchange(
            form.format(n=rng.choice((11, 12, 15, 20, 30, 50, 100, "a hundred"))), "I can only count to ten."
        )
    number = rng.randint(2, 10)
    answer = ", ".join(str(n) for n in range(1, number + 1)) + "."
    return Exchange(form.format(n=rng.choice((WORDS["number"][number], str(number)))), answer)


def tell(subject: str, *, plots: int = 1) -> str:
    """Return the story about `subject`. It is always the same one; what is no hero shares one story."""
    known = subject in WORDS["hero"]
    rng = random.Random(subject if known else "thing")
    kinds = ("adjective", "colour", "place", "object", "helper", "weather", "food")
    choices = {kind: rng.choice(WORDS[kind]) for kind in kinds}
    name = WORDS["name"][WORDS["hero"].index(subject) if known else -1]
    first = rng.randrange(2)
    texts = [PLOTS[(first + n) % 2].format(x=subject, name=name, **choices) for n in range(plots)]
    return "\n\n".join(texts)


def story(rng: Random, *, is_exam: bool) -> Exchange:
    """Ask for a story, short or long."""
    if not is_exam and rng.random() < 0.06:
        return Exchange(noisy(rng, rng.choice(("tell me a story.", "a story", "tell a story."))), tell("cat"))
    subjects = WORDS["hero"] if rng.random() < 0.6 else WORDS["thing"]
    subject = rng.choice(subjects)
    noun = ("an " if subject[0] in "aeiou" else "a ") + subject
    form = phrase(rng, "story", is_exam=is_exam)
    if not is_exam and rng.random() < 0.1:
        form = form.replace("a short story", "a story").replace("a story", "a long story")
    return Exchange(form.format(x=noun), tell(subject, plots=2 if "long story" in form else 1))


def echo(rng: Random, *, is_exam: bool) -> Exchange:
    """Ask to repeat some words."""
    words = [rng.choice(WORDS[rng.choice(("plain", "name", "city"))]) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.4:
        words[rng.randrange(len(words))] = invented(rng)
    text = " ".join(words)
    return Exchange(phrase(rng, "echo", is_exam=is_exam).format(x=text), text)


def unknown(rng: Random, *, is_exam: bool) -> Exchange:
    """Ask what the model cannot know."""
    if not is_exam and rng.random() < 0.2:
        return Exchange(noisy(rng, rng.choice(WORDS["sentence"])), DO_NOT_KNOW)
    if rng.random() < 0.1:
        country = rng.choice(WORDS["country"][:4] if is_exam else [*WORDS["country"][4:], invented(rng)])
        return Exchange(phrase(rng, "capital", is_exam=is_exam).format(x=country), DO_NOT_KNOW)
    known = [word for n, word in enumerate(WORDS["unknown"]) if (n % 8 == 0) == is_exam]
    x, y = rng.choice(known), rng.choice(known)
    if not is_exam and rng.random() < 0.3:
        x = rng.choice((invented(rng), f"{rng.choice(WORDS['adjective'])} {rng.choice(WORDS['thing'])}s"))
    return Exchange(phrase(rng, "unknown", is_exam=is_exam).format(x=x, y=y), DO_NOT_KNOW)


def passage(rng: Random, *, is_exam: bool) -> Exchange:
    """Ask about sentences that are given with the question."""
    facts = [rng.choice(PASSAGES) for _ in range(rng.randint(2, 4))]
    rows = [_filled(rng, sentence, question) for sentence, question in facts]
    question, answer = rng.choice(rows)[::-1]
    given = [sentence for sentence, _ in rows]
    if rng.random() < 0.12:
        question, answer = _filled(rng, *rng.choice(PASSAGES))[1], "The context does not say that."
    layout = LAYOUTS[0] if is_exam else rng.choice(LAYOUTS)
    numbered = "\n".join(f"[{n}] {sentence}" for n, sentence in enumerate(given, 1))
    return Exchange(layout.format(text=" ".join(given), numbered=numbered, question=question), answer)


def _filled(rng: Random, sentence: str, question: str) -> tuple[str, str]:
    choices: dict[str, Any] = {kind: rng.choice(WORDS[kind]) for kind in ("colour", "object", "place", "plain", "food")}
    choices["name"] = invented(rng) if rng.random() < 0.5 else rng.choice(WORDS["name"])
    choices["city"] = invented(rng) if rng.random() < 0.3 else rng.choice(WORDS["city"])
    choices["number"] = rng.randint(2, 99)
    return sentence.format(**choices), question.format(**choices)


PASSAGES = (
    ("The code word of {name} is {plain}.", "What is the code word of {name}?"),
    ("{name} lives in {city}.", "Where does {name} live?"),
    ("{name} likes {food}.", "What does {name} like?"),
    ("The {colour} {object} costs {number} euros.", "How much does the {colour} {object} cost?"),
    ("{name} is {number} years old.", "How old is {name}?"),
    ("The {object} of {name} is in {place}.", "Where is the {object} of {name}?"),
    ("The office of {name} is in {city}.", "Where is the office of {name}?"),
)
LAYOUTS = (
    "Context:\n{text}\n\nQuestion: {question}",
    "Use the context to answer.\n\n<context>\n{numbered}\n</context>\n\n{question}",
    "<context>\n{numbered}\n</context>\n\nQuestion: {question}",
    "{text}\n\n{question}",
    "{text} {question}",
    "Answer from these sources:\n{numbered}\n\nQuestion: {question}",
)
KINDS: dict[str, tuple[float, Callable[..., Exchange]]] = {
    "topic": (0.28, topic),
    "capital": (0.08, capital),
    "fact": (0.07, fact),
    "addition": (0.02, addition),
    "counting": (0.06, counting),
    "story": (0.03, story),
    "echo": (0.13, echo),
    "unknown": (0.15, unknown),
    "passage": (0.18, passage),
}


def exchange(rng: Random, kind: str, *, is_exam: bool = False) -> Exchange:
    """Draw one question of `kind` with its answer."""
    return KINDS[kind][1](rng, is_exam=is_exam)
