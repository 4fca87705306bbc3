"""Three heavy models and one for embeddings over two slots, and a crowd that asks them all at once."""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from eventlog.events import ModelLoading, ModelLost
from tests.support.heavy import MODELS, Heavy, config, entry, heavy, made
from tests.support.processes import fusion_up
from tests.support.text import Reference
from tests.support.tiny_bert import write_tiny_bert

REQUESTS, AT_ONCE = 200, 50
TOKENS = 6
VECTORS = "org/vectors"
PROMPTS = tuple(f"Permission is hereby granted to number {number}" for number in range(4))

Route = Literal["chat", "completions", "embeddings"]


class Asked(Struct, frozen=True):
    """One request of the crowd, and how it is read."""

    model: str
    route: Route
    prompt: str
    is_streamed: bool
    leaves: bool


class Answered(Struct, frozen=True, kw_only=True):
    """What came of it; `text` is None if its client left."""

    asked: Asked
    status: int
    model: str = ""
    text: str | None = None
    reason: str = ""


def crowd() -> list[Asked]:
    """Return requests of all kinds in random order, the same each time. Every tenth leaves in the middle."""
    order = random.Random(4)  # noqa: S311 - an order, not a secret
    asked = [
        Asked(
            model=order.choice(MODELS),
            route=order.choice(("chat", "completions")),
            prompt=order.choice(PROMPTS),
            is_streamed=number % 2 == 0,
            leaves=number % 10 == 0,
        )
        for number in range(REQUESTS)
    ]
    for number in order.sample(range(1, REQUESTS, 2), 8):
        asked[number] = Asked(VECTORS, "embeddings", order.choice(PROMPTS), is_streamed=False, leaves=False)
    return asked


async def answers_alone(folder: Path, model: str) -> dict[tuple[Route, str], str]:
    """Return what mlx-lm itself says, without Fusion, to each prompt of the crowd."""
    reference = Reference(made(folder, model))
    await reference.load()
    said: dict[tuple[Route, str], str] = {}
    for prompt in PROMPTS:
        said["completions", prompt] = await reference.greedy(prompt, TOKENS)
        chat = await reference.greedy(f"<|begin|>user: {prompt}\nassistant: ", TOKENS)
        said["chat", prompt] = chat.removeprefix(" ")
    await reference.close()
    return said


async def send(fusion: Heavy, asked: Asked) -> Answered:
    """Send one request and read its answer, or leave after the first bytes of it."""
    shapes: dict[Route, tuple[str, dict[str, Any]]] = {
        "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": asked.prompt}]}),
        "completions": ("/v1/completions", {"prompt": asked.prompt}),
        "embeddings": ("/v1/embeddings", {"input": asked.prompt}),
    }
    path, body = shapes[asked.route]
    if asked.route != "embeddings":
        body |= {"max_tokens": TOKENS, "temperature": 0, "stream": asked.is_streamed}
    async with fusion.http.post(path, json=body | {"model": asked.model}) as response:
        if asked.leaves:
            await response.content.readany()
            response.close()
            return Answered(asked=asked, status=response.status)
        content = await response.text()
    if response.status != 200:
        return Answered(asked=asked, status=response.status, reason=content)
    if asked.is_streamed:
        return streamed(asked, content)
    answer = json.loads(content)
    if asked.route == "embeddings":
        size = len(answer["data"][0]["embedding"])
        return Answered(asked=asked, status=200, model=answer["model"], text=f"{size} numbers", reason="stop")
    (choice,) = answer["choices"]
    text = choice["message"]["content"] if asked.route == "chat" else choice["text"]
    return Answered(asked=asked, status=200, model=answer["model"], text=text, reason=choice["finish_reason"])


def streamed(asked: Asked, content: str) -> Answered:
    """Put a stream together. One that was killed has no reason; the error, or nothing, stands in its place."""
    *frames, last = [line.removeprefix("data: ") for line in content.splitlines() if line.startswith("data: ")]
    if last != "[DONE]":
        return Answered(asked=asked, status=200, text="", reason=last)
    text, reason, models = "", "", set()
    for chunk in map(json.loads, frames):
        models.add(chunk["model"])
        (choice,) = chunk["choices"]
        text += (choice["delta"].get("content") or "") if asked.route == "chat" else choice["text"]
        reason = choice["finish_reason"] or reason
    return Answered(asked=asked, status=200, model=" ".join(models), text=text, reason=reason)


async def test_crowd_gets_every_answer_whole_and_from_the_right_model_with_few_swaps(tmp_path: Path) -> None:
    said = {model: await answers_alone(tmp_path, model) for model in MODELS}
    said[VECTORS] = {("embeddings", prompt): "64 numbers" for prompt in PROMPTS}
    vectors = entry(VECTORS, write_tiny_bert(tmp_path / "vectors"), kind="embeddings")
    catalogue = config(tmp_path, "slots: 2, min_residency: 1") + vectors
    waiting = asyncio.Semaphore(AT_ONCE)

    async def sent(fusion: Heavy, asked: Asked) -> Answered:
        async with waiting:
            return await send(fusion, asked)

    async with fusion_up(tmp_path, catalogue) as up, heavy(up) as fusion:
        answered = await asyncio.gather(*(sent(fusion, asked) for asked in crowd()))
        await fusion.until_idle()
        loads = [event.model for event in fusion.events if isinstance(event, ModelLoading)]
        lost = [event for event in fusion.events if isinstance(event, ModelLost)]

    stayed = [each for each in answered if not each.asked.leaves]
    assert Counter(each.status for each in answered) == {200: REQUESTS}
    assert [each for each in stayed if each.model != each.asked.model or each.reason not in {"length", "stop"}] == []
    assert [each for each in stayed if each.text != said[each.asked.model][each.asked.route, each.asked.prompt]] == []
    assert len({tuple(texts.values()) for texts in said.values()}) == len(said)
    assert lost == []
    assert len(loads) < REQUESTS / 10
