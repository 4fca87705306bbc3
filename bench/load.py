"""The load: so many streamed conversations at once, each followed by the next, and what every one of them took."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from msgspec import Struct

_PATIENCE = 120.0
_SUBJECTS = ("cat", "dog", "bird", "boat", "tree", "ball", "garden", "river")


class Target(Struct, frozen=True):
    """A server that speaks OpenAI's chat completions, and the name that it gives the model."""

    name: str
    url: str
    model: str


class Outcome(Struct, frozen=True, kw_only=True):
    """One request, in seconds. `gaps` lie between one piece of text and the next; tokens may share a piece."""

    total: float
    first: float = 0.0
    gaps: tuple[float, ...] = ()
    tokens: int = 0
    error: str | None = None


class Run(Struct, frozen=True, kw_only=True):
    """The requests of one run and how long it took, in seconds."""

    outcomes: tuple[Outcome, ...]
    seconds: float


class Load(Struct, frozen=True, kw_only=True):
    """`requests` in all, `at_once` of them in flight; none is begun after `seconds`."""

    at_once: int
    requests: int
    max_tokens: int = 0
    seconds: float = 30.0


class _Delta(Struct, frozen=True):
    content: str | None = None


class _Choice(Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Usage(Struct, frozen=True):
    completion_tokens: int = 0


class _Chunk(Struct, frozen=True):
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: msgspec.Raw | None = None


_decode = msgspec.json.Decoder(_Chunk).decode

# Sends a text and tells what came of it.
Send = Callable[[ClientSession, Target, str], Awaitable[Outcome]]


def prompts() -> Iterator[str]:
    """Return texts of which no two are equal, so that no cache knows one whole."""
    return (f"{number}: tell me about a {_SUBJECTS[number % len(_SUBJECTS)]}." for number in itertools.count(1))


async def run(target: Target, load: Load, texts: Iterator[str], send: Send | None = None) -> Run:
    """Keep `at_once` requests in flight until all are sent: conversations, unless `send` sends something else."""
    send = send or partial(ask, max_tokens=load.max_tokens)
    outcomes: list[Outcome] = []
    mine = itertools.islice(texts, load.requests)
    begun = time.perf_counter()

    async def worker() -> None:
        for text in mine:
            if time.perf_counter() - begun > load.seconds:
                return
            outcomes.append(await send(session, target, text))

    async with ClientSession(connector=TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        for _ in range(load.at_once):
            group.create_task(worker())
    return Run(outcomes=tuple(outcomes), seconds=time.perf_counter() - begun)


async def ask(session: ClientSession, target: Target, text: str, max_tokens: int) -> Outcome:
    """Ask for one conversation and read its stream to the end. What goes wrong is told in the outcome."""
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    reading = _Reading()
    try:
        async with session.post(
            f"{target.url}/v1/chat/completions", json=body, timeout=ClientTimeout(total=_PATIENCE)
        ) as response:
            if response.status != 200:
                return reading.outcome(f"status {response.status}")
            async for piece in response.content.iter_any():
                reading.feed(piece)
    except (ClientError, TimeoutError, msgspec.DecodeError) as error:
        return reading.outcome(type(error).__name__)
    return reading.outcome()


class _Reading:
    """Reads the clock and the frames of one stream."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._said: list[float] = []
        self._tokens = 0
        self._error: str | None = "no end"
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        *frames, self._rest = (self._rest + piece).split(b"\n\n")
        now = time.perf_counter()
        for frame in frames:
            # Comments, which tell that the server lives, may stand between frames.
            if frame.startswith(b"data: "):
                self._read(frame[6:], now)

    def _read(self, content: bytes, now: float) -> None:
        if content == b"[DONE]":
            self._error = None
            return
        chunk = _decode(content)
        if chunk.error is not None:
            raise ClientError(bytes(chunk.error).decode())
        if chunk.choices and chunk.choices[0].delta.content:
            self._said.append(now)
        if chunk.usage:
            self._tokens = chunk.usage.completion_tokens

    def outcome(self, error: str | None = None) -> Outcome:
        now = time.perf_counter()
        error = error or self._error or (None if self._said else "no text")
        if error:
            return Outcome(total=now - self._begun, error=error)
        return Outcome(
            total=now - self._begun,
            first=self._said[0] - self._begun,
            gaps=tuple(later - earlier for earlier, later in itertools.pairwise(self._said)),
            tokens=self._tokens or len(self._said),
        )
