"""The text that fusion-toy learns: synthetic chats. The same seed gives the same chats."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from models import tool_chats
from models.phrasing import WORDS, Random, invented, noisy
from models.questions import KINDS, exchange

Message: TypeAlias = dict[str, Any]


class Chat(NamedTuple):
    """One conversation. Every assistant message in it is to be learned."""

    messages: list[Message]
    tools: list[Message] | None = None


def _turns(rng: Random, wanted: int) -> Iterator[Message]:
    """Yield `wanted` questions with answers; some refer to what was said before."""
    weights = [weight for weight, _ in KINDS.values()]
    name, said = "", ""
    for turn in range(wanted):
        (kind,) = rng.choices(list(KINDS), weights)
        question, answer = exchange(rng, kind)
        chance = rng.random()
        if wanted > 1 and chance < 0.15:
            question, name, answer = _introduction(rng, name)
        elif turn and chance < 0.22:
            question, answer = noisy(rng, rng.choice(("say that again.", "repeat that.", "once more."))), said
        yield {"role": "user", "content": question}
        yield {"role": "assistant", "content": answer}
        said = answer


def _introduction(rng: Random, name: str) -> tuple[str, str, str]:
    if name or rng.random() < 0.1:
        answer = f"Your name is {name}." if name else "You have not told me your name."
        return noisy(rng, rng.choice(("what is my name?", "what's my name?", "who am I?"))), name, answer
    name = invented(rng) if rng.random() < 0.3 else rng.choice(WORDS["name"])
    form = noisy(rng, rng.choice(("my name is {x}.", "I am {x}.", "I'm {x}.", "call me {x}.")))
    return form.format(x=name), name, f"Nice to meet you, {name}."


def chat(rng: Random) -> Chat:
    """Draw one conversation for training."""
    if rng.random() < 0.25:
        messages, tools = tool_chats.draw(rng)
    else:
        (wanted,) = rng.choices((1, 2, 3, rng.randint(4, 12)), (0.68, 0.17, 0.11, 0.04))
        messages, tools = list(_turns(rng, wanted)), None
    if rng.random() < 0.45:
        role = "developer" if rng.random() < 0.1 else "system"
        messages = [{"role": role, "content": rng.choice(WORDS["system"])}, *messages]
    return Chat(messages, tools)


def chats(seed: int, count: int) -> list[Chat]:
    """Return `count` conversations. The same seed gives the same ones."""
    rng = random.Random(seed)
    return [chat(rng) for _ in range(count)]
