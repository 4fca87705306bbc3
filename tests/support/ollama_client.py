"""What Ollama's official client is asked, and how it fails."""

from typing import Any

import pytest
from ollama import ResponseError


def user(text: str) -> list[dict[str, Any]]:
    """Return the messages of a conversation that has just begun."""
    return [{"role": "user", "content": text}]


async def failing(asked: Any) -> ResponseError:
    """Return the error that the client raises."""
    with pytest.raises(ResponseError) as raised:
        await asked
    return raised.value
