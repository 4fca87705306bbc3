"""Log probabilities in OpenAI's two shapes: that of chat, and the older one of completions."""

from collections.abc import Sequence

from msgspec import Struct

from bus.errors import RefusedError
from bus.messages.chat import TokenLogprob


class ChatTop(Struct, frozen=True, kw_only=True):
    """A token that was likely. `bytes` is all of it; in `token` broken UTF-8 is replaced."""

    token: str
    bytes: list[int]
    logprob: float


class ChatToken(Struct, frozen=True, kw_only=True):
    """A token of the answer, and what was likely in its place, best first."""

    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[ChatTop]


class ChatLogprobs(Struct, frozen=True, kw_only=True):
    """The tokens of the answer, or of a piece of it."""

    content: list[ChatToken]
    refusal: None = None


class TextLogprobs(Struct, frozen=True, kw_only=True):
    """The same in columns. `text_offset` counts characters from the beginning of the answer."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


def top_logprobs(logprobs: bool | None, top: int | None) -> int | None:
    """Return how many alternatives to tell of each token, or None to tell no log probabilities at all."""
    if logprobs:
        return top or 0
    if top:
        raise RefusedError(
            "invalid_request", "'top_logprobs' is only allowed with 'logprobs': true.", param="top_logprobs"
        )
    return None


def chat_logprobs(entries: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Return `entries` in the shape of chat."""
    return ChatLogprobs(
        content=[
            ChatToken(
                token=_text(each.token),
                bytes=list(each.token),
                logprob=each.logprob,
                top_logprobs=[
                    ChatTop(token=_text(top.token), bytes=list(top.token), logprob=top.logprob) for top in each.top
                ],
            )
            for each in entries
        ]
    )


def text_logprobs(entries: Sequence[TokenLogprob]) -> TextLogprobs:
    """Return `entries` in the shape of completions, whose alternatives always have the token itself among them."""
    return TextLogprobs(
        tokens=[_key(each.token) for each in entries],
        token_logprobs=[each.logprob for each in entries],
        top_logprobs=[
            {_key(top.token): top.logprob for top in each.top} | {_key(each.token): each.logprob} for each in entries
        ],
        text_offset=[each.offset for each in entries],
    )


def _text(token: bytes) -> str:
    return token.decode(errors="replace")


def _key(token: bytes) -> str:
    """Return a text that differs for different tokens: OpenAI writes those of broken UTF-8 so."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
