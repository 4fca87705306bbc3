from pathlib import Path

import pytest

from actors.engines.text import TextEngine
from actors.engines.text_model import TextLimits
from actors.engines.text_sampling import Sampling
from bus.errors import BusError, RefusedError
from bus.messages.chat import ChatRequest, Message, TextPart
from tests.support import tiny_models

pytestmark = pytest.mark.asyncio(loop_scope="session")


def refusal(engine: TextEngine, request: ChatRequest) -> BusError:
    with pytest.raises(RefusedError) as refused:
        engine.prepare(request)
    return refused.value


async def test_messages_are_rendered_by_the_template_with_one_bos(text_engine: TextEngine) -> None:
    messages = (
        Message(role="developer", content="Be brief."),
        Message(role="user", content=(TextPart(text="Hel"), TextPart(text="lo"))),
    )

    rendered = text_engine.prepare(ChatRequest(messages=messages)).prompt

    written = f"{tiny_models.BEGIN}system: Be brief.\nuser: Hello\nassistant: "
    assert text_engine._loaded().tokenizer.decode(rendered) == written
    assert text_engine.prepare(ChatRequest(prompt=written)).prompt == rendered
    assert text_engine.prepare(ChatRequest(prompt=written.removeprefix(tiny_models.BEGIN))).prompt == rendered


async def test_conversation_that_the_template_refuses_is_refused(text_engine: TextEngine) -> None:
    refused = refusal(text_engine, ChatRequest(messages=(Message(role="tool", content="4"),)))

    assert (refused.code, refused.failure.param) == ("invalid_request", "messages")
    assert "no tools here" in str(refused)


async def test_model_without_a_template_refuses_messages_but_continues_prompts(
    tiny_llama: Path, tmp_path: Path
) -> None:
    plain = tiny_models.changed(tiny_llama, tmp_path / "plain", tokenizer_config={"chat_template": None})
    engine = TextEngine(plain, TextLimits())
    await engine.load()

    refused = refusal(engine, ChatRequest(messages=(Message(role="user", content="Hello"),)))

    assert (refused.code, refused.failure.param) == ("invalid_request", "messages")
    assert engine.prepare(ChatRequest(prompt="Work")).prompt
    await engine.unload()


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (ChatRequest(), "messages"),
        (ChatRequest(messages=(Message(role="user"),), prompt="both"), "messages"),
        (ChatRequest(prompt=()), "prompt"),
        (ChatRequest(prompt=(1, tiny_models.VOCAB_SIZE)), "prompt"),
        (ChatRequest(prompt=(-1,)), "prompt"),
        (ChatRequest(prompt="a", top_k=tiny_models.VOCAB_SIZE), "top_k"),
        (ChatRequest(prompt="a", logit_bias={tiny_models.VOCAB_SIZE: 1.0}), "logit_bias"),
        (ChatRequest(prompt="a", logit_bias={-1: 1.0}), "logit_bias"),
    ],
)
async def test_impossible_request_is_refused_by_its_field(
    text_engine: TextEngine, request_: ChatRequest, param: str
) -> None:
    refused = refusal(text_engine, request_)

    assert (refused.code, refused.failure.param) == ("invalid_request", param)


async def test_request_that_does_not_fit_the_context_is_refused(text_engine: TextEngine) -> None:
    full = tiny_models.CONTEXT_LENGTH

    too_long = refusal(text_engine, ChatRequest(prompt=(5,) * full))
    too_many = refusal(text_engine, ChatRequest(prompt=(5,) * (full - 10), max_tokens=11))

    assert too_long.code == too_many.code == "context_length_exceeded"
    assert str(too_long) == (
        "This model's maximum context length is 256 tokens. However, your prompt resulted in 256 tokens."
    )
    assert text_engine.prepare(ChatRequest(prompt=(5,) * (full - 10), max_tokens=10)).max_tokens == 10


async def test_unsaid_max_tokens_is_the_rest_of_the_context_or_the_setting(
    text_engine: TextEngine, tiny_llama: Path
) -> None:
    engine = TextEngine(tiny_llama, TextLimits(default_max_tokens=50))
    await engine.load()

    assert text_engine.prepare(ChatRequest(prompt=(5,) * 56)).max_tokens == 200
    assert engine.prepare(ChatRequest(prompt=(5,) * 56)).max_tokens == 50
    assert engine.prepare(ChatRequest(prompt=(5,) * 246)).max_tokens == 10
    await engine.unload()


async def test_generation_config_gives_the_defaults(tiny_llama: Path, tmp_path: Path) -> None:
    own = {"temperature": 0, "top_k": 10**6, "top_p": 0.7, "do_sample": True}
    folder = tiny_models.changed(tiny_llama, tmp_path / "own", generation_config=own)
    engine = TextEngine(folder, TextLimits())
    await engine.load()

    assert engine.prepare(ChatRequest(prompt="a")).sampling == Sampling(temperature=0, top_p=0.7)
    assert engine.prepare(ChatRequest(prompt="a", top_p=0.1)).sampling.top_p == 0.1
    await engine.unload()


async def test_missing_folder_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        await TextEngine(tmp_path / "absent", TextLimits()).load()

    assert refused.value.code == "model_not_found"
