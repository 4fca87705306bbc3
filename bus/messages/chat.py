"""What is said with a language model: conversations and plain texts to continue."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

Role = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class TextPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """One text part of a message's content."""

    text: str


class Tool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A function that the model may ask for. `parameters` is the JSON schema of its arguments, enforced if `strict`."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The tool that has to be called."""

    name: str


class ToolCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that the model made. `arguments` is a JSON object; an empty text is one without members."""

    id: str
    name: str
    arguments: str


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One turn of a conversation.

    `reasoning_content` and `tool_calls` belong to the assistant; `tool_call_id` says which call a tool answers.
    """

    role: Role
    content: str | tuple[TextPart, ...] = ""
    name: str | None = None
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class JsonObject(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class JsonSchema(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that a schema allows, without white space."""

    schema: Raw


class Regex(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="regex"):
    """A text that a regular expression matches as a whole, in the syntax of Rust's regex crate."""

    pattern: str


class Choice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="choice"):
    """One of some texts."""

    options: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]


class Lark(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="lark"):
    """A text that a context-free grammar allows, in llguidance's dialect of Lark."""

    source: str


Grammar = JsonObject | JsonSchema | Regex | Choice | Lark


class ChatRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Continue a conversation (`messages`), or a text or its token ids (`prompt`): exactly one of them.

    `None` means not said: the model's own default applies. Names and ranges are OpenAI's;
    `top_k`, `min_p` and `repetition_penalty` are as in mlx-lm. `grammar` holds after the thought, if there is one.
    `top_logprobs` asks for the log probability of each token and of so many alternatives; also with 0.
    `enable_thinking` is as in chat templates.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    # Divided by less, logits of 16 bits would be infinite.
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None
    logit_bias: dict[int, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(max_length=4)] = ()
    grammar: Grammar | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: ReasoningEffort | None = None
    enable_thinking: bool | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens read and written. `completion_tokens` counts the end-of-turn token too, as OpenAI does.

    `cached_tokens` of the prompt were known from an earlier request.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class TopLogprob(Struct, frozen=True, kw_only=True):
    """A token that was likely at some place, as its bytes."""

    token: bytes
    logprob: float


class TokenLogprob(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token of the answer. `offset` is where it begins in the answer's text, in characters."""

    token: bytes
    logprob: float
    offset: int
    top: tuple[TopLogprob, ...] = ()


class ToolCallDelta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of call number `index`. Its first piece alone has `id` and `name`; the `arguments` add up to JSON."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class ChatChunk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of the answer. The last one carries `finish_reason` and `usage`; its text may be empty.

    `stop_sequence` is the stop string that ended it, where one did.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: FinishReason | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
