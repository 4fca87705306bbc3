"""Puts the pieces of a streamed answer together."""

from collections.abc import AsyncIterable

from bus.frames import Status
from bus.messages.chat import ChatChunk


async def in_one_piece(answer: AsyncIterable[ChatChunk | Status]) -> ChatChunk:
    """Wait for all of `answer`, and return it as a single piece. Raises as it does.

    It is read to its very end, not to the reason: leaving before is a cancel.
    """
    pieces = [item async for item in answer if not isinstance(item, Status)]
    last = pieces[-1] if pieces else ChatChunk()
    return ChatChunk(
        text="".join(piece.text for piece in pieces),
        reasoning="".join(piece.reasoning for piece in pieces),
        tool_calls=tuple(delta for piece in pieces for delta in piece.tool_calls),
        logprobs=tuple(entry for piece in pieces for entry in piece.logprobs),
        finish_reason=last.finish_reason,
        stop_sequence=last.stop_sequence,
        usage=last.usage,
    )
