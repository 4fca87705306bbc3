"""The least that can be measured against: aiohttp alone, writing the echo's answer word by word as Fusion does."""

import argparse
import json
from typing import Any

from aiohttp import web


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.bare", description=__doc__)
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", _create), web.get("/readyz", _ready)])
    web.run_app(app, host="127.0.0.1", port=args.port, print=None, access_log=None)


async def _create(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    words = body["messages"][-1]["content"].split(" ")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    await response.write(_frame(_choice({"role": "assistant", "content": ""})))
    for number, word in enumerate(words):
        await response.write(_frame(_choice({"content": f" {word}" if number else word})))
    await response.write(_frame(_choice({}, "stop")))
    await response.write(_frame([], {"completion_tokens": len(words)}))
    await response.write(b"data: [DONE]\n\n")
    return response


async def _ready(_: web.Request) -> web.Response:
    return web.Response()


def _choice(delta: dict[str, str], reason: str | None = None) -> list[Any]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]


def _frame(choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-01M7YTZWNX1HM2FD34NPEWD7DC",
        "object": "chat.completion.chunk",
        "created": 1795257529,
        "model": "echo",
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


if __name__ == "__main__":
    main()
