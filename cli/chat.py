"""`fusion chat`: a chat in the terminal, straight over NATS."""

import argparse
import asyncio
import sys

from bus.client import Bus
from bus.errors import BusError, LostError, RefusedError
from bus.frames import Status
from bus.messages.chat import ChatRequest, Message
from bus.messages.models import GetModel, ListModels
from bus.subjects import CHAT, GET_MODEL, LIST_MODELS
from cli.connect import add_place_options, connected
from http_edge.routing import not_serving


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser("chat", help="chat in the terminal")
    add_place_options(parser)
    parser.add_argument("--model", help="the model; the first chat model when not given")
    parser.add_argument("--system", help="what the model is told first")
    parser.add_argument("message", nargs="?", help="one message; without it, lines are read until the end of input")
    parser.set_defaults(run=lambda args: asyncio.run(_chat(args)))


async def _chat(args: argparse.Namespace) -> int:
    async with connected(args) as bus:
        model = args.model or await _first_model(bus)
        said = [Message(role="system", content=args.system)] if args.system else []
        if args.message:
            await _turn(bus, model, said, args.message)
            return 0
        print(f"{model}. An empty line or Ctrl-D ends the chat.", file=sys.stderr)
        while line := (await asyncio.to_thread(_read_line)).strip():
            try:
                await _turn(bus, model, said, line)
            except BusError as error:
                print(f"[{error.code}: {error}]", file=sys.stderr)
    return 0


async def _first_model(bus: Bus) -> str:
    reply = await bus.ask(LIST_MODELS(), ListModels())
    model = next((card.id for card in reply.models if card.kind == "chat"), None)
    if model is None:
        raise RefusedError("model_not_found", "There is no chat model in the catalogue.")
    return model


def _read_line() -> str:
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline()


async def _turn(bus: Bus, model: str, said: list[Message], text: str) -> None:
    """Say `text`, print the answer as it comes, and remember both, also as far as it came. Raises `BusError`."""
    said.append(Message(role="user", content=text))
    pieces: list[str] = []
    try:
        async with bus.stream(CHAT(model), ChatRequest(messages=tuple(said))) as answer:
            async for item in answer:
                if not isinstance(item, Status):
                    pieces.append(item.text)
                    print(item.text, end="", flush=True)
    except LostError as error:
        if error.code != "unavailable" or pieces:
            raise
        raise not_serving(await bus.ask(GET_MODEL(), GetModel(model=model)), "chat") from error
    finally:
        if pieces:
            print()
        said.append(Message(role="assistant", content="".join(pieces)))
