"""Synthetic conversations with tools: the call, and the answer from its result."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from models.phrasing import WORDS, Random, invented, noisy, phrase
from models.questions import exchange

Message: TypeAlias = dict[str, Any]


class Use(NamedTuple):
    """One use of a tool: what is asked, called, returned and said."""

    tool: Message
    question: str
    arguments: dict[str, Any]
    result: dict[str, Any]
    answer: str


def definition(name: str, description: str, **parameters: str) -> Message:
    """Return an OpenAI tool definition; `parameters` maps names to JSON types."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def _asked(rng: Random, *forms: str, **values: object) -> str:
    return noisy(rng, rng.choice(forms)).format(**values)


def _city(rng: Random) -> str:
    return invented(rng) if rng.random() < 0.25 else rng.choice(WORDS["city"])


def weather(rng: Random) -> Use:
    """Ask for the weather in a city."""
    city, key = _city(rng), rng.choice(("city", "city", "location"))
    name = rng.choice(("get_weather", "get_weather", "get_current_weather", "weather"))
    degrees, sky = rng.randint(-9, 39), rng.choice(WORDS["weather"])
    tool = definition(name, rng.choice(("Get the weather in a city.", "Get the current weather.")), **{key: "string"})
    forms = (
        "what is the weather in {x}?",
        "what's the weather in {x}?",
        "what is the weather like in {x}?",
        "how is the weather in {x}?",
        "weather in {x}?",
        "tell me the weather in {x}.",
        "is it warm in {x}?",
        "what is the weather in {x} today?",
    )
    answer = f"It is {sky} and {degrees} degrees in {city}."
    result = {"temperature": degrees, "condition": sky}
    return Use(tool, _asked(rng, *forms, x=city), {key: city}, result, answer)


def clock(rng: Random) -> Use:
    """Ask for the time in a city."""
    city, time = _city(rng), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    tool = definition(rng.choice(("get_time", "get_current_time")), "Get the time in a city.", city="string")
    forms = (
        "what time is it in {x}?",
        "what is the time in {x}?",
        "time in {x}?",
        "tell me the time in {x}.",
    )
    return Use(tool, _asked(rng, *forms, x=city), {"city": city}, {"time": time}, f"It is {time} in {city}.")


def addition(rng: Random) -> Use:
    """Ask for a sum that is left to the tool."""
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    tool = definition("add", "Add two numbers.", a="number", b="number")
    question = phrase(rng, "add", is_exam=False).format(a=a, b=b)
    return Use(tool, question, {"a": a, "b": b}, {"result": a + b}, f"{a} + {b} is {a + b}.")


def job(rng: Random) -> Use:
    """Ask for the state of a job."""
    job_id = f"job-{rng.randint(1, 99)}"
    state = rng.choice(("queued", "running", "completed", "failed", "cancelled"))
    tool = definition("get_job", "Get the state of a job.", job_id="string")
    forms = ("what is the state of {x}?", "how is {x}?", "is {x} done?", "show me {x}.", "check {x}")
    return Use(tool, _asked(rng, *forms, x=job_id), {"job_id": job_id}, {"state": state}, f"{job_id} is {state}.")


def search(rng: Random) -> Use:
    """Ask to search the documents."""
    query = " ".join(rng.choice(WORDS["plain"]) for _ in range(rng.randint(1, 3)))
    found = f"The {rng.choice(WORDS['object'])} is in {rng.choice(WORDS['place'])}."
    name = rng.choice(("search", "search_documents"))
    tool = definition(name, "Search the documents.", query="string")
    forms = ("search for {x}", "search the documents for {x}", "find {x}", "look for {x}")
    return Use(tool, _asked(rng, *forms, x=query), {"query": query}, {"text": found}, f"I found this: {found}")


def anything(rng: Random) -> Use:
    """Ask for an invented tool, so that its names can only be copied."""
    noun, key = rng.sample(WORDS["plain"][:32], 2)
    name = f"{rng.choice(('get', 'find', 'set', 'make', 'show', 'read'))}_{noun}"
    value = rng.choice(WORDS[rng.choice(("name", "city", "plain"))])
    tool = definition(name, f"Use the {noun}.", **{key: "string"})
    forms = ("call {t} with {x}", "use {t} with {x}.", "run {t} for {x}.", "please {t} {x}")
    outcome = rng.choice(WORDS["plain"])
    answer = f"The result is {outcome}."
    return Use(tool, _asked(rng, *forms, t=name, x=value), {key: value}, {"result": outcome}, answer)


USES: tuple[Callable[[Random], Use], ...] = (weather, weather, weather, clock, addition, job, search, anything)


def call(use: Use) -> Message:
    """Return the assistant's message that makes the call."""
    function = {"name": use.tool["function"]["name"], "arguments": use.arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def result(rng: Random, use: Use) -> Message:
    """Return the tool's message, as JSON or as bare text."""
    values = list(use.result.values())
    text = str(values[0]) if len(values) == 1 and rng.random() < 0.3 else json.dumps(use.result)
    return {"role": "tool", "content": text}


def toolbox(rng: Random, tool: Message) -> list[Message]:
    """Return `tool` among others that have different names."""
    name = tool["function"]["name"]
    others = [other(rng).tool for other in rng.sample(USES[2:], rng.choice((0, 0, 1, 1, 2)))]
    tools = [tool, *(other for other in others if other["function"]["name"] != name)]
    rng.shuffle(tools)
    return tools


def draw(rng: Random) -> tuple[list[Message], list[Message]]:
    """Return the messages and tools of one conversation: a call, its answer, or a question that needs no tool."""
    use = rng.choice(USES)(rng)
    question = {"role": "user", "content": use.question}
    if rng.random() < 0.15:
        plain = exchange(rng, rng.choice(("topic", "capital", "unknown", "story")))
        messages = [
            {"role": "user", "content": plain.question},
            {"role": "assistant", "content": plain.answer},
        ]
    elif rng.random() < 0.1:
        return _twice(rng)
    else:
        messages = [question, call(use), result(rng, use), {"role": "assistant", "content": use.answer}]
    if rng.random() < 0.2:
        before = exchange(rng, "topic")
        messages[:0] = [
            {"role": "user", "content": before.question},
            {"role": "assistant", "content": before.answer},
        ]
    return messages, toolbox(rng, use.tool)


def _twice(rng: Random) -> tuple[list[Message], list[Message]]:
    first = weather(rng)
    second = weather(rng)._replace(tool=first.tool)
    key = next(iter(first.arguments))
    here, there = first.arguments[key], next(iter(second.arguments.values()))
    second = second._replace(arguments={key: there})
    both = call(first)
    both["tool_calls"] += call(second)["tool_calls"]
    messages = [
        {"role": "user", "content": f"What is the weather in {here} and {there}?"},
        both,
        result(rng, first),
        result(rng, second),
        {"role": "assistant", "content": f"{first.answer} {second.answer}"},
    ]
    return messages, toolbox(rng, first.tool)
