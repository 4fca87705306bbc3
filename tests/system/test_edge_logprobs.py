"""Log probabilities as the official client sees them, from a model with weights."""

from typing import Any

from tests.support.stack import CHAT_MODEL, Stack

CHAT: Any = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Who?"}], "max_tokens": 12, "seed": 1}
# Without the tokens of single bytes outside ASCII, of which the tiny model makes broken characters.
NO_BYTES = {str(token): -100 for token in range(96, 258)}
TEXT: Any = {"model": CHAT_MODEL, "prompt": "The License", "max_tokens": 12, "seed": 1, "logit_bias": NO_BYTES}


async def test_chat_has_them_whole_and_streamed(tiny_edge: Stack) -> None:
    answer = await tiny_edge.openai.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2)
    stream = await tiny_edge.openai.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2, stream=True)
    choices = [chunk.choices[0] async for chunk in stream]

    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    content = choice.logprobs.content
    assert len(content) == 12
    assert bytes(byte for each in content for byte in each.bytes or ()).decode(errors="replace") == (
        choice.message.content
    )
    assert {len(each.top_logprobs) for each in content} == {2}
    assert [each for piece in choices if piece.logprobs for each in piece.logprobs.content or ()] == content


async def test_chat_without_them_has_null(tiny_edge: Stack) -> None:
    answer = await tiny_edge.openai.chat.completions.create(**CHAT, logprobs=False)

    assert answer.choices[0].logprobs is None


async def test_completions_have_them_in_their_own_shape_whole_and_streamed(tiny_edge: Stack) -> None:
    answer = await tiny_edge.openai.completions.create(**TEXT, logprobs=2)
    stream = await tiny_edge.openai.completions.create(**TEXT, logprobs=2, stream=True)
    pieces = [chunk.choices[0].logprobs async for chunk in stream]

    choice = answer.choices[0]
    said = choice.logprobs
    assert said is not None
    tokens, logprobs, offsets = said.tokens or [], said.token_logprobs or [], said.text_offset or []
    assert [len(tokens), len(logprobs), len(offsets)] == [12, 12, 12]
    assert "".join(tokens) == choice.text
    assert all(choice.text[at:].startswith(token) for token, at in zip(tokens, offsets, strict=True))
    for token, logprob, top in zip(tokens, logprobs, said.top_logprobs or [], strict=True):
        assert top[token] == logprob
        assert len(top) in {2, 3}
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [each for piece in pieces if piece for each in getattr(piece, name)] == getattr(said, name)
