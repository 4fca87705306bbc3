import asyncio
import threading

import pytest

from actors.chat import ChatActor
from actors.engines.echo import EchoEngine, EchoWork
from bus.messages.chat import ChatRequest, Message, Tool
from bus.messages.tokens import TokenizeRequest, Tokens
from bus.serve import Caller


class SlowEngine(EchoEngine):
    """Prepares a request only after it was allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.allowed = threading.Event()

    def prepare(self, request: ChatRequest) -> EchoWork:
        self._wait()
        return super().prepare(request)

    def tokenize(self, request: TokenizeRequest) -> Tokens:
        self._wait()
        return super().tokenize(request)

    def _wait(self) -> None:
        self.begun.set()
        assert self.allowed.wait(10)


@pytest.mark.parametrize(
    "asked", [ChatRequest(prompt="a" * 4097), ChatRequest(messages=(Message(role="user"),), tools=(Tool(name="f"),))]
)
async def test_slow_request_is_prepared_beside_the_event_loop(asked: ChatRequest) -> None:
    engine = SlowEngine()
    preparing = asyncio.create_task(ChatActor(engine).prepare(asked))

    assert await asyncio.to_thread(engine.begun.wait, 10)
    # Were the event loop waiting too, nobody could say this.
    engine.allowed.set()

    assert isinstance(await preparing, EchoWork)


async def test_long_text_is_tokenised_beside_the_event_loop() -> None:
    engine = SlowEngine()
    caller = Caller(request_id="req-1")
    telling = asyncio.ensure_future(anext(ChatActor(engine).tokenize(TokenizeRequest(prompt="a" * 4097), caller)))

    assert await asyncio.to_thread(engine.begun.wait, 10)
    engine.allowed.set()

    assert len((await telling).tokens) == 1
