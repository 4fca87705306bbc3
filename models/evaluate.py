"""Asks a model folder what it was not asked in training, and prints how much it answers word for word.

    python -m models.evaluate DIR [--count N]

Greedy decoding. Every second prompt has a system message. The phrasings are unseen, except for tools;
what the answers say about Fusion, countries or stories was learned by heart.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlx_lm import generate, load

from models import tool_chats
from models.corpus import Message
from models.folder import render_call
from models.phrasing import invented
from models.questions import KINDS, exchange

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
SEED = 20_000_001


class Exam(NamedTuple):
    """A prompt and the text that is expected to follow it."""

    messages: list[Message]
    tools: list[Message] | None
    expected: str


def _plain(rng: random.Random, kind: str) -> Exam:
    question, answer = exchange(rng, kind, is_exam=True)
    return Exam([{"role": "user", "content": question}], None, answer)


def _call(rng: random.Random, _: str) -> Exam:
    use = rng.choice(tool_chats.USES)(rng)
    question = {"role": "user", "content": use.question}
    return Exam([question], tool_chats.toolbox(rng, use.tool), render_call(tool_chats.call(use)))


def _result(rng: random.Random, _: str) -> Exam:
    use = rng.choice(tool_chats.USES)(rng)
    messages = [{"role": "user", "content": use.question}, tool_chats.call(use), tool_chats.result(rng, use)]
    return Exam(messages, tool_chats.toolbox(rng, use.tool), use.answer)


def _memory(rng: random.Random, _: str) -> Exam:
    name = invented(rng)
    messages = [
        {"role": "user", "content": f"My name is {name}."},
        {"role": "assistant", "content": f"Nice to meet you, {name}."},
        {"role": "user", "content": "What is my name?"},
    ]
    return Exam(messages, None, f"Your name is {name}.")


EXAMS = dict.fromkeys(KINDS, _plain) | {"tool call": _call, "tool result": _result, "memory": _memory}


def exams(kind: str, count: int) -> Iterator[Exam]:
    """Yield `count` exams of `kind`, always the same ones."""
    rng = random.Random(f"{SEED} {kind}")
    for n in range(count):
        exam = EXAMS[kind](rng, kind)
        yield exam._replace(messages=[SYSTEM, *exam.messages]) if n % 2 else exam


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=40, help="prompts of each kind")
    parser.add_argument("--show", action="store_true", help="print the wrong answers")
    options = parser.parse_args()
    model, tokenizer = load(str(options.folder))
    for kind in EXAMS:
        right = 0
        for exam in exams(kind, options.count):
            ids = tokenizer.apply_chat_template(
                exam.messages, tools=exam.tools, add_generation_prompt=True, return_dict=False
            )
            answer = generate(model, tokenizer, ids, max_tokens=300)
            right += answer == exam.expected
            if options.show and answer != exam.expected:
                print(f"  {exam.messages[-1]['content']!r}: {answer!r}")
        print(f"{kind:12} {right:3} of {options.count}  {100 * right / options.count:5.1f} %", flush=True)


if __name__ == "__main__":
    main()
